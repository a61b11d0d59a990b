//! Agencies: who looks after users of several tenants, such as a reseller.
//!
//! An agency is a name and settings that its users' clients read. Which users belong to it the
//! installation says, one agency a user, whichever tenants they are in. It gives nobody rights:
//! what somebody may do is their tenants' business alone.
//!
//! Both kinds stand in the platform's chain. [`Agency`] is one agency, by the id that its maker
//! chose; [`AgencyMember`] is where one user belongs, so that a user can never belong to two.
//!
//! Rows, in the platform's shard: family [`AGENCY_FAMILY`], by id, holding an [`AgencyRow`]; family
//! [`MEMBER_FAMILY`], by user, holding the agency's id.
//!
//! Deliberate limits
//! - An agency is never deleted, and its id never changes.
//! - What its display name and settings say is the platform's, and no erasure of a person takes it
//!   away: nothing personal belongs there.

use persistence::{RowRange, codec};
use serde::{Deserialize, Serialize};
use serde_json::json;
use supervision::{
    Address, Command, Entity, Handle, Home, NoEffect, Origin, Refusal, RowDraft, System, Timestamp,
    Turn,
};
use types::{JsonBytes, TenantId, UserId, platform, rfc3339};

/// The family of the rows of agencies.
pub const AGENCY_FAMILY: &str = "agency";
/// The family of the rows of users who belong to one.
pub const MEMBER_FAMILY: &str = "agency_member";
/// The shortest and the longest id, in bytes.
pub const ID_BYTES: std::ops::RangeInclusive<usize> = 3..=50;
/// The longest display name and domain, in characters.
pub const TEXT_CHARS_MAX: usize = 255;
/// The longest settings, in bytes of their JSON text.
pub const SETTINGS_BYTES_MAX: usize = 16 * 1024;
/// How many agencies there may be.
pub const AGENCIES_MAX: usize = 10_000;
/// How many rows one step of reading a list takes.
const STEP_ROWS: usize = 500;

/// An agency.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Agency {
    row: Option<AgencyRow>,
}

/// What is known of an agency; a row of [`AGENCY_FAMILY`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgencyRow {
    /// The id.
    pub id: String,
    /// What people call it.
    pub display_name: String,
    /// Where it is at home.
    pub domain: Option<String>,
    /// Settings that clients read, a JSON object; `None` for none.
    pub settings: Option<JsonBytes>,
    /// Since when.
    pub created_at: Timestamp,
}

/// It was created.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgencyCreated {
    /// The id.
    pub id: String,
    /// What people call it.
    pub display_name: String,
    /// Where it is at home.
    pub domain: Option<String>,
    /// Settings, a JSON object.
    pub settings: Option<JsonBytes>,
}

/// It has other settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgencySettingsSet {
    /// All of them, a JSON object.
    pub settings: JsonBytes,
}

supervision::events! {
    /// What happens to an agency.
    pub enum AgencyEvent {
        /// It was created.
        Created(AgencyCreated) = "agency_created", 1;
        /// Other settings.
        SettingsSet(AgencySettingsSet) = "agency_settings_set", 1;
    }
}

fn check_id(id: &str) -> Result<(), Refusal> {
    let fits = ID_BYTES.contains(&id.len())
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && id.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        && id != "me";
    let message = "must be 3 to 50 of a-z, 0-9, - and _, a letter first";
    fits.then_some(()).ok_or_else(|| Refusal::invalid("agency_id", message))
}

fn check_text(field: &str, text: &str) -> Result<(), Refusal> {
    let fits = (1..=TEXT_CHARS_MAX).contains(&text.trim().chars().count());
    let message = || format!("must have 1 to {TEXT_CHARS_MAX} characters");
    fits.then_some(()).ok_or_else(|| Refusal::invalid(field, message()))
}

fn check_settings(settings: &JsonBytes) -> Result<(), Refusal> {
    let fits = settings.as_str().starts_with('{') && settings.as_str().len() <= SETTINGS_BYTES_MAX;
    let message = || format!("must be an object of at most {SETTINGS_BYTES_MAX} bytes");
    fits.then_some(()).ok_or_else(|| Refusal::invalid("settings", message()))
}

impl Agency {
    /// Where an agency lives; 422 for what is no agency's id.
    pub fn address(id: &str) -> Result<Address<Self>, Refusal> {
        check_id(id)?;
        Ok(crate::address(id, platform(), Home(TenantId::SYSTEM.0)))
    }
}

impl Entity for Agency {
    const KIND: &'static str = "agency";
    type Event = AgencyEvent;
    type Effect = NoEffect;

    fn apply(&mut self, event: &AgencyEvent, at: Timestamp) {
        match (event, &mut self.row) {
            (AgencyEvent::Created(created), row) => {
                let AgencyCreated { id, display_name, domain, settings } = created.clone();
                *row = Some(AgencyRow { id, display_name, domain, settings, created_at: at });
            }
            (AgencyEvent::SettingsSet(set), Some(row)) => row.settings = Some(set.settings.clone()),
            (AgencyEvent::SettingsSet(_), None) => {}
        }
    }

    fn rows(&self, event: &AgencyEvent, at: Timestamp, rows: &mut Vec<RowDraft>) {
        let mut after = self.clone();
        after.apply(event, at);
        if let Some(row) = after.row {
            let (key, value) = (row.id.clone().into_bytes(), codec::encode(&row).ok());
            rows.push(RowDraft { family: AGENCY_FAMILY, key, value });
        }
    }

    fn observe(&self) -> serde_json::Value {
        let Some(row) = &self.row else { return json!({"exists": false}) };
        json!({"id": row.id, "display_name": row.display_name,
            "created_at": rfc3339(row.created_at)})
    }
}

/// Creates an agency. 422 for what does not fit, 409 `agency_exists`. Answers it.
pub struct CreateAgency {
    /// The id.
    pub id: String,
    /// What people call it.
    pub display_name: String,
    /// Where it is at home.
    pub domain: Option<String>,
    /// Settings, a JSON object.
    pub settings: Option<JsonBytes>,
}

impl Command for CreateAgency {
    const NAME: &'static str = "create_agency";
}

impl Handle<CreateAgency> for Agency {
    type Reply = AgencyRow;

    fn handle(turn: &mut Turn<'_, Self>, command: CreateAgency) -> Result<AgencyRow, Refusal> {
        let CreateAgency { id, display_name, domain, settings } = command;
        check_id(&id)?;
        check_text("display_name", &display_name)?;
        domain.as_ref().map_or(Ok(()), |domain| check_text("domain", domain))?;
        settings.as_ref().map_or(Ok(()), check_settings)?;
        if turn.state().row.is_some() {
            let message = "there is an agency with this id already";
            return Err(Refusal::conflict("agency_exists", message));
        }
        let created = AgencyCreated { id, display_name, domain, settings };
        turn.record(AgencyEvent::Created(created));
        turn.state().row.clone().ok_or_else(Refusal::crashed)
    }
}

/// Changes settings: those that are named take the place of those of the same names. 404, 422.
/// Answers the agency.
pub struct SetAgencySettings {
    /// A JSON object.
    pub settings: JsonBytes,
}

impl Command for SetAgencySettings {
    const NAME: &'static str = "set_agency_settings";
}

impl Handle<SetAgencySettings> for Agency {
    type Reply = AgencyRow;

    fn handle(
        turn: &mut Turn<'_, Self>,
        SetAgencySettings { settings }: SetAgencySettings,
    ) -> Result<AgencyRow, Refusal> {
        let missing = || Refusal::not_found("agency");
        let known = turn.state().row.clone().ok_or_else(missing)?;
        let before = known.settings.clone().unwrap_or_else(|| json!({}).into());
        let settings = crate::tenant::with(&before, &settings);
        check_settings(&settings)?;
        if known.settings.as_ref() != Some(&settings) {
            turn.record(AgencyEvent::SettingsSet(AgencySettingsSet { settings }));
        }
        turn.state().row.clone().ok_or_else(missing)
    }
}

/// Where a user belongs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AgencyMember {
    agency: Option<String>,
}

/// The user belongs to this agency, or to none any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgencyAssigned {
    /// Who.
    pub user: UserId,
    /// The agency's id.
    pub agency: Option<String>,
}

supervision::events! {
    /// What happens to where a user belongs.
    pub enum AgencyMemberEvent {
        /// Another agency, or none.
        Assigned(AgencyAssigned) = "agency_assigned", 1;
    }
}

fn member_key(user: UserId) -> Vec<u8> {
    user.0.to_be_bytes().to_vec()
}

impl AgencyMember {
    /// Where it is known where a user belongs.
    pub fn address(user: UserId) -> Address<Self> {
        crate::address(&user.to_string(), platform(), Home(TenantId::SYSTEM.0))
    }
}

impl Entity for AgencyMember {
    const KIND: &'static str = "agency_member";
    type Event = AgencyMemberEvent;
    type Effect = NoEffect;

    fn apply(&mut self, AgencyMemberEvent::Assigned(it): &AgencyMemberEvent, _: Timestamp) {
        self.agency.clone_from(&it.agency);
    }

    fn rows(
        &self,
        AgencyMemberEvent::Assigned(it): &AgencyMemberEvent,
        _: Timestamp,
        rows: &mut Vec<RowDraft>,
    ) {
        let value = it.agency.as_ref().map(|agency| agency.clone().into_bytes());
        rows.push(RowDraft { family: MEMBER_FAMILY, key: member_key(it.user), value });
    }

    fn observe(&self) -> serde_json::Value {
        json!({"agency": self.agency})
    }
}

/// Says where a user belongs. That the agency exists, and that whoever asks may say so, the caller
/// has checked. A repetition is no change.
pub struct AssignAgency {
    /// Who.
    pub user: UserId,
    /// The agency's id; `None` for none.
    pub agency: Option<String>,
}

impl Command for AssignAgency {
    const NAME: &'static str = "assign_agency";
}

impl Handle<AssignAgency> for AgencyMember {
    type Reply = ();

    fn handle(turn: &mut Turn<'_, Self>, command: AssignAgency) -> Result<(), Refusal> {
        let AssignAgency { user, agency } = command;
        if turn.state().agency != agency {
            turn.record(AgencyMemberEvent::Assigned(AgencyAssigned { user, agency }));
        }
        Ok(())
    }
}

/// The agency that a user belongs to. Panics when rows cannot be read, as the lists do.
pub fn agency_of(system: &System, user: UserId) -> Option<String> {
    let row = system.row(platform().shard(), MEMBER_FAMILY, &member_key(user))?;
    String::from_utf8(row).ok()
}

/// An agency by its id; `None` where there is none.
pub fn agency(system: &System, id: &str) -> Option<AgencyRow> {
    let row = system.row(platform().shard(), AGENCY_FAMILY, id.as_bytes())?;
    codec::decode(&row).ok()
}

/// All agencies, by id, at most [`AGENCIES_MAX`].
pub fn agencies(system: &System) -> Vec<AgencyRow> {
    let (mut found, mut after) = (Vec::new(), None);
    while found.len() < AGENCIES_MAX {
        let rows = system.rows(&RowRange {
            shard: platform().shard(),
            family: AGENCY_FAMILY,
            prefix: Vec::new(),
            after,
            newest_first: false,
            limit: STEP_ROWS,
        });
        after = rows.last().map(|(key, _)| key.clone());
        found.extend(rows.iter().filter_map(|(_, row)| codec::decode::<AgencyRow>(row).ok()));
        if rows.len() < STEP_ROWS {
            break;
        }
    }
    found.truncate(AGENCIES_MAX);
    found
}

/// Says where a user belongs, if there is such an agency: 422 where there is none.
pub async fn assign(
    system: &System,
    user: UserId,
    agency: Option<String>,
    origin: Origin,
) -> Result<(), Refusal> {
    check_assignable(system, agency.as_deref())?;
    let assign = AssignAgency { user, agency };
    system.directory::<AgencyMember>().ask(&AgencyMember::address(user), assign, origin).await
}

/// 422 unless there is such an agency.
pub fn check_assignable(system: &System, id: Option<&str>) -> Result<(), Refusal> {
    let is_there = id.is_none_or(|id| agency(system, id).is_some());
    let refusal = || Refusal::invalid("agency_id", "there is no such agency");
    is_there.then_some(()).ok_or_else(refusal)
}

/// Who is erased belongs nowhere.
pub(crate) async fn leave(system: &System, user: UserId, origin: &Origin) -> Result<(), Refusal> {
    match agency_of(system, user) {
        Some(_) => assign(system, user, None, origin.clone()).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use supervision::testkit::Given;

    use super::*;

    fn create(id: &str) -> CreateAgency {
        let (display_name, settings) = ("North".to_owned(), Some(json!({"a": 1, "b": 2}).into()));
        CreateAgency { id: id.to_owned(), display_name, domain: None, settings }
    }

    #[test]
    fn an_agency_is_made_once_and_its_settings_change_by_name() {
        let then = Given::<Agency>::nothing().when(create("north"));
        let row: AgencyRow = codec::decode(then.rows[0].value.as_ref().unwrap()).unwrap();
        assert_eq!((then.rows[0].key.as_slice(), row.id.as_str()), (&b"north"[..], "north"));
        let (code, given) = then.then().when(create("north")).refused();
        assert_eq!(code, "agency_exists");
        let set = || SetAgencySettings { settings: json!({"b": 3, "c": 4}).into() };
        let (row, given) = given.when(set()).reply();
        assert_eq!(row.settings.unwrap().value(), json!({"a": 1, "b": 3, "c": 4}));
        let then = given.when(set());
        assert!(then.events.is_empty());
        let long = json!({"x": "y".repeat(SETTINGS_BYTES_MAX)}).into();
        let refused = then.given.when(SetAgencySettings { settings: long }).refused();
        assert_eq!(refused.0, "validation_error");
        let nobody = Given::<Agency>::nothing().when(set()).refused();
        assert_eq!(nobody.0, "not_found");
        for unfit in ["", "no", "North", "1st", "a b c", &"a".repeat(51)] {
            assert!(Agency::address(unfit).is_err(), "{unfit}");
        }
    }

    #[test]
    fn a_user_belongs_to_one_agency_or_to_none() {
        let assign = |agency: Option<&str>| AssignAgency {
            user: UserId(7),
            agency: agency.map(str::to_owned),
        };
        let then = Given::<AgencyMember>::nothing().when(assign(None));
        assert!(then.events.is_empty());
        let then = then.given.when(assign(Some("north")));
        assert_eq!(then.rows[0].value.as_deref(), Some(&b"north"[..]));
        let then = then.then().when(assign(Some("south")));
        assert_eq!(then.rows[0].value.as_deref(), Some(&b"south"[..]));
        let then = then.then().when(assign(None));
        assert_eq!(then.rows[0].value, None);
    }
}
