//! An inverted index over short texts: words to the documents that hold them, found by whole words
//! and by how words begin.
//!
//! A document is found when each word of the question is in it. A word counts for more in a title
//! than in a description, and twice as much when it is whole; the sum over the words is the score.
//!
//! Invariant: the postings hold exactly the words of the documents that are in, so taking one out
//! leaves nothing of it behind.
//!
//! Deliberate limits: words are runs of letters and digits in lower case, without stemming and
//! without regard to a language; a document's and a question's words are bounded; a beginning
//! stands for at most [`BEGINNINGS_MAX`] words.

use std::collections::{BTreeMap, HashMap};

/// Words of one document that are indexed; further ones are not found.
pub const WORDS_MAX: usize = 400;
/// Characters of a word; what is longer is cut.
pub const WORD_CHARACTERS_MAX: usize = 40;
/// Words of a question; further ones are not looked at.
pub const QUESTION_WORDS_MAX: usize = 8;
/// Words that one beginning stands for.
pub const BEGINNINGS_MAX: usize = 2_000;

/// What a word counts for in a title.
pub const TITLE: u8 = 8;
/// In a tag or a category.
pub const TAG: u8 = 4;
/// In running text.
pub const TEXT: u8 = 1;

/// The words of a text.
fn words(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split(|it: char| !it.is_alphanumeric()).filter(|part| !part.is_empty());
    parts.map(|part| part.chars().take(WORD_CHARACTERS_MAX).flat_map(char::to_lowercase).collect())
}

/// The words of a document, each with the most that it counts for.
pub fn weigh<'a>(texts: impl IntoIterator<Item = (&'a str, u8)>) -> HashMap<String, u8> {
    let mut all: HashMap<String, u8> = HashMap::new();
    for (text, weight) in texts {
        for word in words(text) {
            if all.len() >= WORDS_MAX && !all.contains_key(&word) {
                continue;
            }
            let known = all.entry(word).or_default();
            *known = weight.max(*known);
        }
    }
    all
}

/// The index. Documents are numbers, as small as may be: scores are kept in a list by number.
#[derive(Default)]
pub struct Index {
    postings: BTreeMap<String, Vec<(u32, u8)>>,
    words: HashMap<u32, Vec<String>>,
    /// One more than the greatest number that was ever in.
    end: usize,
}

impl Index {
    /// Puts a document in, in the place of the one that had the number.
    pub fn put(&mut self, document: u32, weighed: HashMap<String, u8>) {
        self.remove(document);
        self.end = self.end.max(document as usize + 1);
        self.words.insert(document, weighed.keys().cloned().collect());
        for (word, weight) in weighed {
            self.postings.entry(word).or_default().push((document, weight));
        }
    }

    /// Takes a document out.
    pub fn remove(&mut self, document: u32) {
        for word in self.words.remove(&document).unwrap_or_default() {
            let Some(all) = self.postings.get_mut(&word) else { continue };
            all.retain(|(known, _)| *known != document);
            if all.is_empty() {
                self.postings.remove(&word);
            }
        }
    }

    /// What is found for a question: documents with their scores, 1 or more, in no order. `None`
    /// for a question without words, which asks for everything.
    pub fn find(&self, question: &str) -> Option<Vec<(u32, u16)>> {
        let mut all: Option<Vec<(u32, u16)>> = None;
        for word in words(question).take(QUESTION_WORDS_MAX) {
            let (mut best, mut touched) = (vec![0_u16; self.end], Vec::new());
            let from_here = self.postings.range(word.clone()..);
            let begun = from_here.take_while(|(known, _)| known.starts_with(&word));
            for (known, documents) in begun.take(BEGINNINGS_MAX) {
                let factor = if *known == word { 2 } else { 1 };
                for (document, weight) in documents {
                    let score = u16::from(*weight) * factor;
                    let known = &mut best[*document as usize];
                    if *known == 0 {
                        touched.push(*document);
                    }
                    *known = score.max(*known);
                }
            }
            let score = |document: u32| best[document as usize];
            all = Some(match all {
                None => touched.into_iter().map(|it| (it, score(it))).collect(),
                // What misses one word is not found.
                Some(sums) => {
                    let both = |(it, sum): (u32, u16)| (it, sum + score(it));
                    sums.into_iter().filter(|(it, _)| score(*it) > 0).map(both).collect()
                }
            });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Index {
        /// The score of each document, by number; 0 for what is not found.
        fn scores(&self, question: &str) -> Option<Vec<u16>> {
            let mut all = vec![0; self.end];
            for (document, score) in self.find(question)? {
                assert_eq!(std::mem::replace(&mut all[document as usize], score), 0, "found twice");
            }
            Some(all)
        }
    }

    fn index() -> Index {
        let mut index = Index::default();
        for (number, title, text) in [
            (0, "Reading Shelf", "Keeps the books that you read"),
            (1, "Notes", "A shelf of notes, and reading lists"),
            (2, "Weather", "Rain and sun"),
        ] {
            index.put(number, weigh([(title, TITLE), (text, TEXT)]));
        }
        index
    }

    #[test]
    fn whole_words_in_titles_come_before_beginnings_in_texts() {
        let index = index();
        assert_eq!(index.scores("shelf"), Some(vec![16, 2, 0]));
        assert_eq!(index.scores("READ"), Some(vec![8, 1, 0]), "a title's beginning, a text's");
        assert_eq!(index.scores("reading shelf"), Some(vec![32, 4, 0]));
        assert_eq!(index.scores("shelf rain"), Some(vec![0, 0, 0]), "every word must be there");
        assert_eq!(index.scores(" ,;- "), None);
    }

    #[test]
    fn what_was_taken_out_or_changed_leaves_nothing_behind() {
        let mut index = index();
        index.put(0, weigh([("Ledger", TITLE)]));
        index.remove(1);
        assert_eq!(index.scores("shelf"), Some(vec![0, 0, 0]));
        assert_eq!(index.scores("led"), Some(vec![8, 0, 0]));
        index.remove(0);
        index.remove(2);
        assert!(index.postings.is_empty() && index.words.is_empty());
    }

    #[test]
    fn words_are_bounded_in_length_and_number() {
        let long = "a".repeat(1_000);
        assert_eq!(words(&long).next().unwrap().len(), WORD_CHARACTERS_MAX);
        let many: String = (0..2 * WORDS_MAX).map(|number| format!("w{number} ")).collect();
        assert_eq!(weigh([(many.as_str(), TEXT)]).len(), WORDS_MAX);
        let mut index = Index::default();
        let title: String =
            (0..QUESTION_WORDS_MAX + 3).map(|number| format!("w{number} ")).collect();
        index.put(0, weigh([(title.as_str(), TITLE)]));
        let whole_words = QUESTION_WORDS_MAX as u16 * 2 * u16::from(TITLE);
        assert_eq!(index.scores(&title), Some(vec![whole_words]));
    }

    proptest! {
        /// The index finds what reading every text would find.
        #[test]
        fn it_finds_what_a_reader_would_find(
            texts in prop::collection::vec("[ab ]{0,12}", 1..8),
            question in "[ab]{1,3}",
            gone in 0..8_u32,
        ) {
            let mut index = Index::default();
            for (number, text) in texts.iter().enumerate() {
                index.put(number as u32, weigh([(text.as_str(), TEXT)]));
            }
            index.remove(gone);
            let scores = index.scores(&question).unwrap();
            for (number, text) in texts.iter().enumerate() {
                let holds = text.split(' ').any(|word| word.starts_with(&question));
                let expected = holds && number as u32 != gone;
                prop_assert_eq!(scores[number] > 0, expected);
            }
        }
    }
}
