//! The format held against itself: what is made is read, nothing else is, and no block widens.

use ed25519_dalek::Signer as _;
use proptest::prelude::*;

use super::narrowing::append;
use super::*;

const NOW_S: u64 = 1_800_000_000;

pub(super) fn seed(byte: u8) -> Seed {
    Seed::from_bytes(&[byte; 32])
}

fn scopes(list: &[&str]) -> Scopes {
    list.iter().copied().collect()
}

pub(super) fn claims() -> Claims {
    Claims {
        token: TokenId(0x0190_0000_0000_7000_8000_0000_0000_0001),
        agent: AgentId(0x0190_0000_0000_7000_8000_0000_0000_0002),
        tenant: TenantId(0x0190_0000_0000_7000_8000_0000_0000_0003),
        epoch: 4,
        issued_at_s: NOW_S,
        intent: "reconcile the ledger – monthly".to_owned(),
        grant: Grant {
            scopes: scopes(&["ledger:*", "wallet:read"]),
            expires_at_s: NOW_S + 3_600,
            target: None,
            allowance: Some(500),
            actors: Vec::new(),
        },
    }
}

/// The issuing key of these tests, and what it is called.
pub(super) fn issuer() -> (Seed, [u8; 32]) {
    let seed = seed(1);
    let id = sha256(&[&seed.public_key()]);
    (seed, id)
}

pub(super) fn minted(claims: &Claims, next: &Seed) -> Result<String, TokenError> {
    let (seed, id) = issuer();
    mint(claims, &id, next, |message| Some(seed.key().sign(message).to_bytes()))
}

pub(super) fn read(text: &str) -> Result<Token, TokenError> {
    let (seed, id) = issuer();
    verify(text, |wanted| (*wanted == id).then(|| seed.key().verifying_key()))
}

fn root() -> String {
    minted(&claims(), &seed(2)).unwrap()
}

#[test]
fn a_token_says_what_it_was_made_to_say() {
    let token = read(&root()).unwrap();
    assert_eq!(token.claims, claims());
    assert_eq!(*token.revocation_ids, [claims().token.0]);
    let bare = Claims {
        intent: String::new(),
        grant: Grant {
            target: Some("billing.example".to_owned()),
            allowance: None,
            actors: vec!["agent/first".to_owned()],
            ..claims().grant
        },
        ..claims()
    };
    assert_eq!(read(&minted(&bare, &seed(2)).unwrap()).unwrap().claims, bare);
}

#[test]
fn scopes_have_one_order_and_stand_once() {
    let mut unsorted = claims();
    unsorted.grant.scopes = scopes(&["wallet:read", "ledger:*", "wallet:read"]);
    assert_eq!(minted(&unsorted, &seed(2)).unwrap(), root());
}

#[test]
fn a_token_has_its_time() {
    let token = read(&root()).unwrap();
    assert_eq!(token.check_time(NOW_S), Ok(()));
    assert_eq!(token.check_time(NOW_S + 3_600), Err(TokenError::Expired));
    assert_eq!(token.check_time(NOW_S - CLOCK_SKEW_SECONDS_MAX), Ok(()));
    let early = token.check_time(NOW_S - CLOCK_SKEW_SECONDS_MAX - 1);
    assert_eq!(early, Err(TokenError::NotYetValid));
}

#[test]
fn a_holder_narrows_without_the_server_and_seals() {
    let first = Narrowing { actor: Some("agent/worker".to_owned()), ..Narrowing::default() };
    let one = attenuate(&root(), &first, &seed(3)).unwrap();
    let second = Narrowing {
        scopes: Some(scopes(&["ledger:post"])),
        expires_at_s: Some(NOW_S + 60),
        target: Some("ledger".to_owned()),
        allowance: Some(10),
        actor: None,
    };
    let two = attenuate(&one, &second, &seed(4)).unwrap();
    let token = read(&two).unwrap();
    let grant = &token.claims.grant;
    assert_eq!((grant.expires_at_s, grant.allowance), (NOW_S + 60, Some(10)));
    assert_eq!(grant.scopes, scopes(&["ledger:post"]));
    assert_eq!((grant.target.as_deref(), grant.actors.len()), (Some("ledger"), 1));
    assert_eq!(token.tree_expires_at_s, NOW_S + 3_600);
    let ids = read(&one).unwrap().revocation_ids;
    assert_eq!(token.revocation_ids[..2], ids[..], "what is made of a token holds its numbers");
    let sealed = seal(&two).unwrap();
    assert_eq!(read(&sealed).unwrap(), token);
    assert_eq!(attenuate(&sealed, &first, &seed(5)), Err(TokenError::Closed));
    assert_eq!(seal(&sealed), Err(TokenError::Closed));
}

#[test]
fn a_token_takes_so_many_blocks() {
    let mut token = root();
    for block in 0..BLOCKS_MAX as u8 {
        token = attenuate(&token, &Narrowing::default(), &seed(block + 10)).unwrap();
    }
    assert_eq!(read(&token).unwrap().revocation_ids.len(), BLOCKS_MAX + 1);
    let more = attenuate(&token, &Narrowing::default(), &seed(99));
    assert_eq!(more, Err(TokenError::Closed));
}

#[test]
fn what_is_wider_is_refused_by_whoever_adds_it_and_by_whoever_checks_it() {
    let narrow = Narrowing { target: Some("ledger".to_owned()), ..Narrowing::default() };
    let token = attenuate(&root(), &narrow, &seed(3)).unwrap();
    let wider = [
        Narrowing { scopes: Some(scopes(&["wallet:spend"])), ..Narrowing::default() },
        Narrowing { scopes: Some(scopes(&["*"])), ..Narrowing::default() },
        Narrowing { expires_at_s: Some(NOW_S + 3_601), ..Narrowing::default() },
        Narrowing { target: Some("billing".to_owned()), ..Narrowing::default() },
        Narrowing { allowance: Some(501), ..Narrowing::default() },
    ];
    for narrowing in wider {
        assert_eq!(attenuate(&token, &narrowing, &seed(4)), Err(TokenError::Widens));
        let forged = append(&bytes_of(&token).unwrap(), &narrowing, &seed(4)).unwrap();
        assert_eq!(read(&forged), Err(TokenError::Widens), "{narrowing:?}");
    }
    let mut crowd = root();
    for actor in 0..ACTORS_MAX {
        let by = Narrowing { actor: Some(format!("a{actor}")), ..Narrowing::default() };
        crowd = attenuate(&crowd, &by, &seed(7)).unwrap();
    }
    assert_eq!(read(&crowd).unwrap().claims.grant.actors.len(), ACTORS_MAX);
}

#[test]
fn every_truncation_and_every_flipped_bit_is_refused() {
    let by = Narrowing { scopes: Some(scopes(&["ledger:post"])), ..Narrowing::default() };
    let one = attenuate(&root(), &by, &seed(3)).unwrap();
    for text in [root(), one.clone(), seal(&one).unwrap()] {
        for length in 0..text.len() {
            assert!(read(&text[..length]).is_err(), "{length} characters");
        }
        let bytes = bytes_of(&text).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.to_vec();
            other[bit / 8] ^= 1 << (bit % 8);
            let error = read(&text_of(&other).unwrap()).unwrap_err();
            assert!(error.code().starts_with("token_"), "bit {bit}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(read(&text_of(&longer).unwrap()), Err(TokenError::Malformed));
        for other in [format!("{text}A"), format!("{text}="), text.replace("rai", "RAI")] {
            assert_eq!(read(&other), Err(TokenError::Malformed), "{other}");
        }
    }
    assert_eq!(read(&"x".repeat(TEXT_BYTES_MAX + 1)), Err(TokenError::TooLong));
}

#[test]
fn each_part_is_refused_with_its_own_reason() {
    let text = root();
    let bytes = bytes_of(&text).unwrap();
    let changed = |at: usize| {
        let mut other = bytes.to_vec();
        other[at] ^= 1;
        read(&text_of(&other).unwrap()).unwrap_err()
    };
    assert_eq!(changed(0), TokenError::Version);
    assert_eq!(changed(3), TokenError::UnknownKey);
    assert_eq!(changed(3 + 32), TokenError::Signature, "the token's number");
    assert_eq!(changed(bytes.len() - 1), TokenError::Proof);
    let one = attenuate(&text, &Narrowing::default(), &seed(3)).unwrap();
    let mut other = bytes_of(&one).unwrap().to_vec();
    let signature = other.len() - 33 - 10;
    other[signature] ^= 1;
    assert_eq!(read(&text_of(&other).unwrap()), Err(TokenError::BlockSignature));
}

#[test]
fn a_block_of_one_token_does_not_go_on_another() {
    // The same next key for both: only what was signed before tells them apart.
    let (mine, theirs) = (root(), minted(&Claims { epoch: 5, ..claims() }, &seed(2)).unwrap());
    let one = bytes_of(&attenuate(&mine, &Narrowing::default(), &seed(3)).unwrap()).unwrap();
    let (mine, theirs) = (bytes_of(&mine).unwrap(), bytes_of(&theirs).unwrap());
    // Behind the count, which is followed by the proof of 33 bytes.
    let block = &one[mine.len() - 33..];
    let mut moved = theirs[..theirs.len() - 34].to_vec();
    moved.push(1);
    moved.extend_from_slice(block);
    assert_eq!(read(&text_of(&moved).unwrap()), Err(TokenError::BlockSignature));
}

#[test]
fn what_would_not_be_read_is_not_made() {
    let change = |change: fn(&mut Claims)| {
        let mut other = claims();
        change(&mut other);
        minted(&other, &seed(2))
    };
    let unfit: [fn(&mut Claims); 7] = [
        |it| it.grant.scopes = Scopes::default(),
        |it| it.grant.scopes = Scopes::from_iter(["a b"]),
        |it| it.grant.scopes = (0..=SCOPES_MAX).map(|n| format!("a:{n}")).collect(),
        |it| it.grant.expires_at_s = it.issued_at_s,
        |it| it.grant.expires_at_s = it.issued_at_s + LIFE_SECONDS_MAX + 1,
        |it| it.intent = "x".repeat(INTENT_BYTES_MAX + 1),
        |it| it.grant.target = Some("x".repeat(TARGET_BYTES_MAX + 1)),
    ];
    for it in unfit {
        assert_eq!(change(it), Err(TokenError::Malformed));
    }
    let mut largest = claims();
    largest.grant.scopes =
        (0..SCOPES_MAX).map(|n| format!("{n:03}{}", "x".repeat(SCOPE_BYTES_MAX - 3))).collect();
    largest.intent = "x".repeat(INTENT_BYTES_MAX);
    read(&minted(&largest, &seed(2)).unwrap()).unwrap();
}

#[test]
fn a_secret_does_not_print() {
    assert_eq!(format!("{:?}", seed(7)), "Seed([redacted])");
}

fn narrowing() -> impl Strategy<Value = Narrowing> {
    let scope = prop::sample::select(vec![
        "*", "a:*", "a.*", "a:b", "a.b", "a:b:*", "a:b:c", "b:*", "b:c", "c",
    ]);
    let scopes = prop::collection::vec(scope, 1..4);
    let scopes = prop::option::of(scopes.prop_map(|all| all.into_iter().collect::<Scopes>()));
    let target = prop::sample::select(vec!["one".to_owned(), "two".to_owned()]);
    (
        scopes,
        prop::option::of(NOW_S..NOW_S + 7_200),
        prop::option::of(target),
        prop::option::of(0..1_000_u64),
        prop::option::of(Just("actor".to_owned())),
    )
        .prop_map(|(scopes, expires_at_s, target, allowance, actor)| Narrowing {
            scopes,
            expires_at_s,
            target,
            allowance,
            actor,
        })
}

/// What scopes are tried on.
const WANTED: &[&str] = &["a:b", "a.c", "a:b:c", "b:c", "c", "d", "a:*", "*", "b:*"];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_descendant_exceeds_an_ancestor(all in prop::collection::vec(narrowing(), 1..6)) {
        let mut first = claims();
        first.grant.scopes = scopes(&["a:*", "b:c", "c"]);
        let mut text = minted(&first, &seed(2)).unwrap();
        let mut ancestors = vec![first.grant];
        for (number, narrowing) in all.iter().enumerate() {
            let bytes = bytes_of(&text).unwrap();
            text = append(&bytes, narrowing, &seed(number as u8 + 3)).unwrap();
            let Ok(token) = read(&text) else { break };
            let grant = token.claims.grant;
            for ancestor in &ancestors {
                for wanted in WANTED {
                    prop_assert!(!grant.scopes.covers(wanted) || ancestor.scopes.covers(wanted));
                }
                prop_assert!(grant.expires_at_s <= ancestor.expires_at_s);
                prop_assert!(ancestor.target.is_none() || grant.target == ancestor.target);
                let credits = |grant: &Grant| grant.allowance.unwrap_or(u64::MAX);
                prop_assert!(credits(&grant) <= credits(ancestor));
                prop_assert!(grant.actors.starts_with(&ancestor.actors));
            }
            ancestors.push(grant);
        }
    }

    #[test]
    fn bytes_that_nobody_signed_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(read(&text_of(&bytes).unwrap()).is_err());
        let text = format!("{PREFIX}{}", String::from_utf8_lossy(&bytes));
        prop_assert!(read(&text).is_err());
    }

    #[test]
    fn a_token_with_other_bytes_in_it_is_refused(
        at in any::<prop::sample::Index>(),
        other in prop::collection::vec(any::<u8>(), 0..40),
        taken in 0..40_usize,
    ) {
        let bytes = bytes_of(&root()).unwrap();
        let at = at.index(bytes.len());
        let end = (at + taken).min(bytes.len());
        let mut mutated = bytes.to_vec();
        mutated.splice(at..end, other.iter().copied());
        prop_assume!(mutated != bytes.to_vec());
        prop_assert!(read(&text_of(&mutated).unwrap()).is_err());
    }
}
