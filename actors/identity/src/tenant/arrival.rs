//! A tenant whose records were told again here: its members' users have not heard of it yet.

use std::collections::BTreeMap;

use supervision::{Command, Handle, Refusal, Turn};
use types::{JsonBytes, UserId};

use super::{
    MemberRemoved, MemberSet, Tenant, TenantEvent, Updated, check_name, record_telling, with,
};
use crate::role;

/// Says of every member anew what they are, so that their users are told, and changes what is
/// given.
pub struct Arrive {
    /// What it is called from now on; `None` leaves it.
    pub name: Option<String>,
    /// Settings that take the place of those of the same names, a JSON object.
    pub settings: Option<JsonBytes>,
    /// Who belongs to what it is a copy of now, as what: nobody else is a member, and who owns that
    /// owns this. `None` for all who were members.
    pub stay: Option<BTreeMap<UserId, String>>,
}

impl Command for Arrive {
    const NAME: &'static str = "arrive";
}

impl Handle<Arrive> for Tenant {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: Arrive) -> Result<(), Refusal> {
        let details = turn.state().existing()?;
        let (id, mut members) = (details.id, details.members.clone());
        let mut gone = Vec::new();
        if let Some(stay) = &command.stay {
            gone.extend(members.keys().filter(|user| !stay.contains_key(*user)).copied());
            members.retain(|user, _| stay.contains_key(user));
            let owners = stay.iter().filter(|(_, role)| role::is_owner(role));
            members.extend(owners.map(|(user, role)| (*user, role.clone())));
        }
        let name = command.name.unwrap_or_else(|| details.name.clone());
        let settings = command.settings.map(|settings| with(&details.settings, &settings));
        let settings = settings.unwrap_or_else(|| details.settings.clone());
        if name != details.name || settings != details.settings {
            check_name(&name)?;
            turn.record(TenantEvent::Updated(Updated { name, settings }));
        }
        for (user, role) in members {
            record_telling(turn, id, TenantEvent::MemberSet(MemberSet { user, role }));
        }
        // Last, so that there is an owner all the time.
        for user in gone {
            record_telling(turn, id, TenantEvent::MemberRemoved(MemberRemoved { user }));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::super::fixtures::{ACME, ADA, BOB, tenant};
    use super::*;
    use crate::tenant::OWNER_ROLE;

    #[test]
    fn every_member_is_to_be_told_anew() {
        let given = tenant(ADA.direct_tenant(), ADA);
        assert!(given.state().staff.untold.is_empty());
        let settings: JsonBytes = serde_json::json!({"sandbox": true}).into();
        let name = Some("Acme's copy".to_owned());
        let arrive = Arrive { name, settings: Some(settings.clone()), stay: None };
        let given = given.when(arrive).then();
        assert_eq!(given.state().staff.untold.keys().collect::<Vec<_>>(), [&ADA]);
        let details = given.state().details.as_ref().unwrap();
        assert_eq!((details.name.as_str(), &details.settings), ("Acme's copy", &settings));
        let nobody = Arrive { name: None, settings: None, stay: None };
        assert_eq!(Given::<Tenant>::nothing().when(nobody).refused().0, "not_found");
    }

    #[test]
    fn who_has_left_what_it_is_a_copy_of_is_no_member_of_the_copy() {
        let stay = Some(BTreeMap::from([(ADA, OWNER_ROLE.to_owned())]));
        let arrive = Arrive { name: None, settings: None, stay };
        let given = tenant(ACME, BOB).when(arrive).then();
        let members = &given.state().details.as_ref().unwrap().members;
        assert_eq!(members.keys().collect::<Vec<_>>(), [&ADA]);
    }
}
