//! Who decides about a card, and when enough of them have.
//!
//! A card has stages, all of which must agree; a stage has groups, one of which is enough; a group
//! is some people and how many of them it takes. A vote counts in every group that its voter is of.
//! One who is asked and says no ends it.

use serde::{Deserialize, Serialize};
use supervision::{Class, Refusal};
use types::UserId;

/// The most stages of one card.
pub const STAGES_MAX: usize = 8;
/// The most groups of one stage.
pub const GROUPS_MAX: usize = 8;
/// The most people that a group names.
pub const USERS_MAX: usize = 64;

/// Some people of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// These.
    Users(Vec<UserId>),
    /// Whose role this is when they decide.
    Role(String),
    /// Every member.
    Anybody,
}

/// Some people, and how many of them it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Who.
    pub who: Who,
    /// How many, from 1.
    pub quorum: u32,
}

/// Groups of which one is enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// The groups.
    pub any_of: Vec<Group>,
}

/// Who decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// All of which must agree; none of which is a card that nobody can confirm.
    pub stages: Vec<Stage>,
    /// Whether whoever asked may agree, too.
    pub allow_self: bool,
    /// Whether it takes a person who logs in on this server's own page.
    pub in_panel: bool,
}

/// Somebody who decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decider {
    /// Who.
    pub user: UserId,
    /// Their role in the tenant.
    pub role: String,
}

impl Who {
    fn has(&self, decider: &Decider) -> bool {
        match self {
            Self::Users(users) => users.contains(&decider.user),
            Self::Role(role) => *role == decider.role,
            Self::Anybody => true,
        }
    }
}

impl Rules {
    /// The user who asked decides alone.
    pub fn own(user: UserId) -> Self {
        let group = Group { who: Who::Users(vec![user]), quorum: 1 };
        let stages = vec![Stage { any_of: vec![group] }];
        Self { stages, allow_self: true, in_panel: false }
    }

    /// 422 for rules that nobody could ever meet, or that are too many.
    pub fn check(&self) -> Result<(), Refusal> {
        let group_fits = |group: &Group| {
            let users = match &group.who {
                Who::Users(users) => users.len(),
                Who::Role(_) | Who::Anybody => USERS_MAX,
            };
            users <= USERS_MAX && (1..=users).contains(&(group.quorum as usize))
        };
        let stage_fits = |stage: &Stage| {
            (1..=GROUPS_MAX).contains(&stage.any_of.len()) && stage.any_of.iter().all(group_fits)
        };
        let fits = (1..=STAGES_MAX).contains(&self.stages.len());
        if fits && self.stages.iter().all(stage_fits) {
            return Ok(());
        }
        let message = format!(
            "1 to {STAGES_MAX} stages of 1 to {GROUPS_MAX} groups of at most {USERS_MAX} people, \
             each with a quorum that they reach"
        );
        Err(Refusal::invalid("rules", message))
    }

    /// Whether somebody is asked at all.
    pub fn asks(&self, decider: &Decider) -> bool {
        let mut groups = self.stages.iter().flat_map(|stage| &stage.any_of);
        groups.any(|group| group.who.has(decider))
    }

    /// 404 for who is not asked, as for what does not exist; 403 `self_approval` for whoever asked
    /// where the rules want somebody else.
    pub fn admit(&self, decider: &Decider, requester: UserId) -> Result<(), Refusal> {
        if !self.asks(decider) {
            return Err(Refusal::not_found("confirmation"));
        }
        if !self.allow_self && decider.user == requester {
            let message = "whoever asks for this does not approve it";
            return Err(Refusal::new(Class::Forbidden, "self_approval", message));
        }
        Ok(())
    }

    /// Whether these votes are enough. Each voter counts once.
    pub fn are_met(&self, votes: &[Decider]) -> bool {
        let of_group = |group: &Group| {
            let mut voters: Vec<UserId> =
                votes.iter().filter(|vote| group.who.has(vote)).map(|vote| vote.user).collect();
            voters.sort_unstable();
            voters.dedup();
            voters.len() >= group.quorum as usize
        };
        let of_stage = |stage: &Stage| stage.any_of.iter().any(of_group);
        !self.stages.is_empty() && self.stages.iter().all(of_stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decider(user: u128, role: &str) -> Decider {
        Decider { user: UserId(user), role: role.to_owned() }
    }

    fn users(users: &[u128], quorum: u32) -> Group {
        Group { who: Who::Users(users.iter().copied().map(UserId).collect()), quorum }
    }

    #[test]
    fn all_stages_and_one_group_of_each_must_agree() {
        let role = Group { who: Who::Role("approver".to_owned()), quorum: 2 };
        let rules = Rules {
            stages: vec![
                Stage { any_of: vec![users(&[1], 1), role] },
                Stage { any_of: vec![users(&[2, 3], 1)] },
            ],
            ..Rules::default()
        };
        assert!(rules.check().is_ok());
        let met = |votes: &[(u128, &str)]| {
            let votes: Vec<_> = votes.iter().map(|(user, role)| decider(*user, role)).collect();
            rules.are_met(&votes)
        };
        assert!(!met(&[]) && !met(&[(1, "")]) && !met(&[(2, "")]));
        assert!(met(&[(1, ""), (2, "")]) && met(&[(3, ""), (1, "")]));
        assert!(!met(&[(4, "approver"), (4, "approver"), (2, "")]), "a voter counts once");
        assert!(met(&[(4, "approver"), (5, "approver"), (2, "")]));
        assert!(met(&[(2, "approver"), (3, "approver")]), "a vote counts in both stages");
    }

    #[test]
    fn nobody_decides_who_is_not_asked_or_who_asked() {
        let rules = Rules { stages: Rules::own(UserId(1)).stages, ..Rules::default() };
        assert_eq!(rules.admit(&decider(2, "owner"), UserId(1)).unwrap_err().code, "not_found");
        assert_eq!(rules.admit(&decider(1, ""), UserId(1)).unwrap_err().code, "self_approval");
        assert!(Rules::own(UserId(1)).admit(&decider(1, ""), UserId(1)).is_ok());
    }

    #[test]
    fn rules_that_nobody_meets_are_refused() {
        let rules =
            |group| Rules { stages: vec![Stage { any_of: vec![group] }], ..Rules::default() };
        for group in [users(&[], 1), users(&[1], 0), users(&[1], 2)] {
            assert!(rules(group).check().is_err());
        }
        assert!(Rules::default().check().is_err() && !Rules::default().are_met(&[]));
    }
}
