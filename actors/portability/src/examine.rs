//! Reading a tenant's file through before anything of it is written: that it is whole and nobody
//! has changed it, that the old chain holds from its first record to the head that the manifest
//! states, that every record that goes along is known here and stands where its tenant's things
//! stand, and what in this installation is in its way.
//!
//! Limits: nothing is replayed here; the names of the streams are held in memory.

use std::collections::BTreeMap;
use std::path::Path;

use control::app::App;
use identity::claim::{Claim, ClaimKey, Namespace, claim_address};
use identity::membership::TENANT_NAMES;
use identity::tenant::{Tenant, TenantEvent};
use market::developer::{Developer, DeveloperEvent, NICKNAME};
use persistence::chain::ChainHead;
use persistence::record::{link_of, sha256};
use persistence::tenant_file::{ExportKey, Manifest, TenantFileReader};
use persistence::{Header, StreamName, codec};
use serde_json::json;
use supervision::address::Place;
use supervision::{Entity, Event as _, Refusal, System, Timestamp};
use types::{UserId, home_of};

use crate::carried::{Route, kind_and_id};
use crate::parts::{self, CarriedRecord, MEMBERS, Member, RECORDS};
use crate::problems;

/// How many members are taken from a file: as many as a tenant may have.
const MEMBERS_MAX: usize = identity::tenant::MEMBERS_MAX;

/// A record that goes along, at its new place.
pub(crate) struct Arriving<'a> {
    pub(crate) header: &'a Header,
    pub(crate) place: Place,
    pub(crate) event_version: u16,
    pub(crate) payload: Vec<u8>,
}

/// What a file holds, once all of it was read.
pub(crate) struct Examined {
    pub(crate) manifest: Manifest,
    /// The tenant, with the ids of here.
    pub(crate) tenant: Tenant,
    /// The entities that come, and how many records each has.
    pub(crate) streams: BTreeMap<StreamName, (Place, u64)>,
    /// Nicknames of developers that come, as they registered.
    pub(crate) nicknames: Vec<(String, UserId)>,
}

/// The manifest and the members of a file.
pub(crate) fn read_members(
    path: &Path,
    key: &ExportKey,
) -> Result<(Manifest, Vec<Member>), Refusal> {
    let mut reader = TenantFileReader::open(path, key).map_err(problems::of_file)?;
    let mut members: Vec<Member> = Vec::new();
    while let Some((kind, part)) = reader.next_part().map_err(problems::of_file)? {
        if kind != MEMBERS {
            break;
        }
        members.extend(parts::decode::<Vec<Member>>(&part)?);
        if members.len() > MEMBERS_MAX {
            return Err(problems::unfit(&"it has too many members"));
        }
    }
    Ok((reader.manifest().clone(), members))
}

/// Reads the parts of records of a file, with the number of the first record of each.
pub(crate) fn each_part(
    path: &Path,
    key: &ExportKey,
    mut each: impl FnMut(u64, Vec<CarriedRecord>) -> Result<(), Refusal>,
) -> Result<Manifest, Refusal> {
    let mut reader = TenantFileReader::open(path, key).map_err(problems::of_file)?;
    let mut next = 1;
    while let Some((kind, part)) = reader.next_part().map_err(problems::of_file)? {
        match kind {
            MEMBERS if next == 1 => {}
            RECORDS => {
                let records: Vec<CarriedRecord> = parts::decode(&part)?;
                let count = records.len() as u64;
                each(next, records)?;
                next += count;
            }
            _ => return Err(problems::unfit(&"it has a part of another kind")),
        }
    }
    Ok(reader.manifest().clone())
}

/// A record at its new place; `None` for one that stays.
pub(crate) fn arriving<'a>(
    system: &System,
    route: &Route,
    header: &'a Header,
    payload: Option<&[u8]>,
) -> Result<Option<Arriving<'a>>, Refusal> {
    let Some(payload) = payload else { return Ok(None) };
    let stray = || problems::unfit(&format!("{} is not of this tenant", header.stream));
    let place = route.place(header).ok_or_else(stray)?;
    let (event_version, payload) = route.payload(system, header, payload)?;
    Ok(Some(Arriving { header, place, event_version, payload }))
}

pub(crate) fn header_of(record: &CarriedRecord) -> Result<Header, Refusal> {
    codec::decode(&record.header).map_err(|error| problems::unfit(&error))
}

/// Reads everything. See the module's head.
pub(crate) fn examine(
    system: &System,
    path: &Path,
    key: &ExportKey,
    route: &Route,
) -> Result<Examined, Refusal> {
    let mut walk = Walk::default();
    let manifest = each_part(path, key, |_, records| {
        records.iter().try_for_each(|record| walk.step(system, route, record))
    })?;
    let head = &walk.head;
    let stated = (manifest.records, manifest.link, manifest.root);
    if (head.chain_seq, head.link, head.root()) != stated {
        return Err(problems::unfit(&"its chain does not end as its manifest says"));
    }
    let Walk { tenant, streams, nicknames, .. } = walk;
    if tenant.details.is_none() {
        return Err(problems::unfit(&"it has no tenant"));
    }
    Ok(Examined { manifest, tenant, streams, nicknames })
}

#[derive(Default)]
struct Walk {
    head: ChainHead,
    tenant: Tenant,
    streams: BTreeMap<StreamName, (Place, u64)>,
    nicknames: Vec<(String, UserId)>,
}

impl Walk {
    fn step(
        &mut self,
        system: &System,
        route: &Route,
        record: &CarriedRecord,
    ) -> Result<(), Refusal> {
        let header = header_of(record)?;
        let expected = self.head.chain_seq + 1;
        let link = link_of(&self.head.link, &sha256(&[&record.header]), &record.payload_digest);
        let is_next = header.chain_seq == expected && header.home == home_of(route.from);
        if !is_next || link != record.link {
            let reason = format!("record {expected} does not link to the one before it");
            return Err(problems::unfit(&reason));
        }
        self.head.push(link);
        let Some(it) = arriving(system, route, &header, record.payload.as_deref())? else {
            return Ok(());
        };
        self.note(it)
    }

    fn note(&mut self, it: Arriving<'_>) -> Result<(), Refusal> {
        let kind = it.place.kind();
        let unfit = |error: &dyn std::fmt::Display| problems::unfit(error);
        if kind == Tenant::KIND {
            let event = TenantEvent::decode(&it.header.event, it.event_version, &it.payload);
            let event = event.map_err(|error| unfit(&error))?;
            self.tenant.apply(&event, Timestamp(it.header.time_ms));
        }
        if kind == Developer::KIND {
            let event = DeveloperEvent::decode(&it.header.event, it.event_version, &it.payload);
            if let DeveloperEvent::Registered(it) = event.map_err(|error| unfit(&error))? {
                self.nicknames.push((it.nickname, it.user));
            }
        }
        let stream = it.place.stream.clone();
        self.streams.entry(stream).or_insert((it.place, 0)).1 += 1;
        Ok(())
    }
}

/// The name that a tenant is addressed by beside its id.
pub(crate) fn address_name(tenant: &Tenant) -> Option<String> {
    let settings = tenant.details.as_ref()?.settings.value();
    let name = settings.get("tenant_id")?.as_str()?.to_owned();
    types::AppId::new(&name).is_ok().then_some(name)
}

/// What stands in a tenant's way here, all of it: 409 with the first one's code, and with
/// `conflicts` for every one.
pub(crate) async fn check_free(system: &System, found: &Examined) -> Result<(), Refusal> {
    let mut conflicts: Vec<(&'static str, String)> = Vec::new();
    for (stream, (place, _)) in &found.streams {
        let head = system.journal().stream_head(stream);
        let is_free = head.map_err(|error| problems::failed("reading a stream", &error))? == 0;
        let code = match place.kind() {
            App::KIND => "app_id_taken",
            Developer::KIND => "developer_exists",
            _ => "tenant_exists",
        };
        if !is_free {
            conflicts.push((code, place.id().to_owned()));
        }
    }
    for (nickname, user) in &found.nicknames {
        if is_taken(system, NICKNAME, nickname, user.0).await? {
            conflicts.push(("nickname_taken", nickname.clone()));
        }
    }
    if let (Some(name), Some(it)) = (address_name(&found.tenant), &found.tenant.details)
        && is_taken(system, TENANT_NAMES, &name, it.id.0).await?
    {
        conflicts.push(("tenant_name_taken", name));
    }
    let Some((code, id)) = conflicts.first() else { return Ok(()) };
    let message = format!("{id} is here already: {} in the way", conflicts.len());
    let all: Vec<_> = conflicts.iter().map(|(code, id)| json!({"error": code, "id": id})).collect();
    Err(Refusal::conflict(code, message).with_facts(&json!({"conflicts": all})))
}

async fn is_taken(
    system: &System,
    namespace: Namespace,
    value: &str,
    holder: u128,
) -> Result<bool, Refusal> {
    let claim = claim_address(namespace, value, &system.port::<ClaimKey>());
    let now = system.clock().now();
    let is_other = move |claim: &Claim| claim.holder(now).is_some_and(|other| other != holder);
    system.directory::<Claim>().look(&claim, system.system_origin(), is_other).await
}

/// The kind of a carried record's stream.
pub(crate) fn kind_of(header: &Header) -> &str {
    kind_and_id(header).0
}
