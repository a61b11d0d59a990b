//! Carrying an import out: making the members who are not here, telling the records again, planting
//! the entities, and letting the members know. Every step may be repeated, so that a start goes on
//! where the last process ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};

use extensions::Apps;
use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, Namespace, Reserve, claim_address};
use identity::membership::TENANT_NAMES;
use identity::tenant::{Arrive, Tenant};
use market::Storefront;
use market::developer::{Developer, NICKNAME, Profile};
use persistence::tenant_file::ExportKey;
use persistence::{Opened, Outcome, StreamName};
use serde_json::json;
use supervision::address::{Place, TENANT_KEY_CLASS};
use supervision::transplant::Retold;
use supervision::{Address, Entity, Origin, Refusal, System};
use types::{TenantId, home_of};

use crate::carried::Route;
use crate::examine::{address_name, arriving, each_part, header_of, read_members};
use crate::export::tenant_state;
use crate::parts::CarriedRecord;
use crate::problems;
use crate::reserving::Comers;
use crate::sandbox::{Open, Sandbox};
use crate::service::{Portability, staged};
use crate::tenant_import::{Begun, MarkPlanted, Note, Noted, Original, Planted, TenantImport};

/// What the key of a staged file is sealed with: the import's own.
pub(crate) fn key_context(id: u128) -> [u8; 16] {
    id.to_be_bytes()
}

/// Whose key seals the key of a staged file.
pub(crate) fn key_owner(tenant: TenantId) -> persistence::KeyId {
    persistence::KeyId { class: TENANT_KEY_CLASS, id: tenant.0 }
}

fn open_key(system: &System, begun: &Begun) -> Result<ExportKey, Refusal> {
    let opened = system.journal().keys().open_blob(&key_context(begun.id), &begun.key.0);
    match opened.map_err(|error| problems::failed("opening a file's key", &error))? {
        Opened::Plain(bytes) => {
            let bytes = <[u8; 32]>::try_from(bytes.as_slice());
            bytes.map(ExportKey::from_bytes).map_err(|_| problems::unfit(&"its key is none"))
        }
        Opened::Erased => Err(Refusal::conflict("tenant_erased", "the tenant was erased")),
    }
}

impl Begun {
    fn route(&self) -> Route {
        let users: Vec<_> = self.arrivals.iter().map(|it| (it.old, it.new)).collect();
        Route::new(self.source.tenant, self.tenant, &users)
    }
}

/// One import's records on their way, on a thread that may block.
struct Telling {
    system: Arc<System>,
    address: Address<TenantImport>,
    origin: Origin,
    begun: Begun,
    route: Route,
    /// The entities that come: how many records came by, and how many there were before.
    streams: BTreeMap<StreamName, (Place, u64, u64)>,
    records: u64,
}

impl Telling {
    fn new(
        system: &Arc<System>,
        address: &Address<TenantImport>,
        origin: &Origin,
        begun: &Begun,
    ) -> Self {
        Self {
            system: system.clone(),
            address: address.clone(),
            origin: origin.clone(),
            begun: begun.clone(),
            route: begun.route(),
            streams: BTreeMap::new(),
            records: 0,
        }
    }

    fn all(&mut self, path: &Path, key: &ExportKey) -> Result<Planted, Refusal> {
        each_part(path, key, |first, records| self.part(first, records))?;
        for (place, ..) in self.streams.values() {
            if let Some(kind) = self.system.kind(place.kind()) {
                kind.plant(place)?;
            }
        }
        Ok(Planted { records: self.records, entities: self.streams.len() as u64 })
    }

    fn part(&mut self, first: u64, records: Vec<CarriedRecord>) -> Result<(), Refusal> {
        if self.begun.sandbox.is_none() {
            self.note(first, &records)?;
        }
        self.tell(&records)
    }

    /// Tells records again; answers once they are durable.
    fn tell(&mut self, records: &[CarriedRecord]) -> Result<(), Refusal> {
        let (sender, told) = mpsc::channel();
        let mut waiting = 0;
        for record in records {
            let header = header_of(record)?;
            let payload = record.payload.as_deref();
            let it = arriving(&self.system, &self.route, &header, payload)?;
            let Some(it) = it else { continue };
            self.records += 1;
            let Some(seq) = self.next_seq(&it.place)? else { continue };
            let (event, sender) = (header.event.clone(), sender.clone());
            let retold = Retold {
                seq,
                caller: self.route.caller(&header.caller),
                request: header.request,
                command: header.command.clone(),
                event,
                event_version: it.event_version,
                payload: it.payload,
                time_ms: header.time_ms,
            };
            let rider = Box::new(move |outcome| {
                let _ = sender.send(outcome);
            });
            self.system.retell(&it.place, retold, rider)?;
            waiting += 1;
        }
        drop(sender);
        for _ in 0..waiting {
            match told.recv() {
                Ok(Outcome::Durable(_)) => {}
                Ok(Outcome::Refused(_)) => {
                    let message = "something else writes to this tenant";
                    return Err(Refusal::conflict("import_disturbed", message));
                }
                // The journal was closed: the next start goes on.
                Err(_) => return Err(Refusal::in_doubt()),
            }
        }
        Ok(())
    }

    /// The number that a stream's next record gets; `None` when it is there already.
    fn next_seq(&mut self, place: &Place) -> Result<Option<u64>, Refusal> {
        let journal = self.system.journal();
        if !self.streams.contains_key(&place.stream) {
            let head = journal.stream_head(&place.stream);
            let head = head.map_err(|error| problems::failed("reading a stream", &error))?;
            self.streams.insert(place.stream.clone(), (place.clone(), 0, head));
        }
        let found = self.streams.get_mut(&place.stream);
        Ok(found.and_then(|(_, seq, head)| {
            *seq += 1;
            (*seq > *head).then_some(*seq)
        }))
    }

    fn note(&self, first: u64, records: &[CarriedRecord]) -> Result<(), Refusal> {
        let original = |record: &CarriedRecord| Original {
            header: record.header.clone(),
            payload_digest: record.payload_digest,
            link: record.link,
            carried: record.payload.is_some(),
        };
        let note = Note(Noted { first, originals: records.iter().map(original).collect() });
        let imports = self.system.directory::<TenantImport>();
        let asked = imports.ask(&self.address, note, self.origin.clone());
        tokio::runtime::Handle::current().block_on(asked)
    }
}

impl Portability {
    /// All steps of an import that has begun; `false` when another run of it is at work.
    pub(crate) async fn carry_out(
        &self,
        system: &Arc<System>,
        address: &Address<TenantImport>,
        origin: &Origin,
    ) -> Result<bool, Refusal> {
        let imports = system.directory::<TenantImport>();
        let look = |import: &TenantImport| (import.begun().cloned(), import.planted());
        let (begun, planted) = imports.look(address, origin.clone(), look).await?;
        let begun = begun.ok_or_else(|| Refusal::not_found("import"))?;
        let Some(_running) = self.run(begun.id) else { return Ok(false) };
        let (path, key) = (staged(system, begun.id)?, open_key(system, &begun)?);
        let members = {
            let (path, key) = (path.clone(), key.clone());
            blocking(move || read_members(&path, &key).map(|(_, members)| members)).await?
        };
        // Before anything of the tenant is there: from here on nobody else can have an address.
        let comers = Comers::new(system, begun.tenant, &begun.arrivals, &members)?;
        comers.secure(origin).await?;
        comers.make(origin).await?;
        if let Some(name) = &begun.sandbox {
            // Before anything of it wakes: what a copy settles is nobody's earning.
            let open = Open { tenant: begun.tenant, of: begun.source.tenant, name: name.clone() };
            let sandboxes = system.directory::<Sandbox>();
            sandboxes.ask(&Sandbox::address(begun.tenant), open, origin.clone()).await?;
            system.set_own_time(home_of(begun.tenant), 0);
        }
        if planted.is_none() {
            let planted = self.tell(system, address, origin, &begun, (&path, &key)).await?;
            imports.ask(address, MarkPlanted(planted), origin.clone()).await?;
        }
        if begun.sandbox.is_some() {
            self.bind(system, begun.tenant, begun.source.tenant);
        }
        settle_names(system, &begun, &self.apps, origin).await?;
        // A copy is not addressed by the name of what it is a copy of.
        let mark = || json!({"sandbox": true, "tenant_id": null}).into();
        let settings = begun.sandbox.as_ref().map(|_| mark());
        let stay = match &begun.sandbox {
            None => None,
            Some(_) => {
                let members = |it: &Tenant| it.details.as_ref().map(|it| it.members.clone());
                let of = self.identity.look_tenant(begun.source.tenant, members).await?;
                Some(of.flatten().unwrap_or_default())
            }
        };
        let arrive = Arrive { name: begun.sandbox.clone(), settings, stay };
        let tenants = system.directory::<Tenant>();
        tenants.ask(&Tenant::address(begun.tenant), arrive, origin.clone()).await?;
        self.identity.tell_members(begun.tenant, origin.clone()).await?;
        Ok(true)
    }

    async fn tell(
        &self,
        system: &Arc<System>,
        address: &Address<TenantImport>,
        origin: &Origin,
        begun: &Begun,
        (path, key): (&Path, &ExportKey),
    ) -> Result<Planted, Refusal> {
        let mut telling = Telling::new(system, address, origin, begun);
        let (path, key) = (path.to_owned(), key.clone());
        blocking(move || telling.all(&path, &key)).await
    }
}

/// Runs on a thread that may block.
pub(crate) async fn blocking<R: Send + 'static>(
    run: impl FnOnce() -> Result<R, Refusal> + Send + 'static,
) -> Result<R, Refusal> {
    let done = tokio::task::spawn_blocking(run).await;
    done.map_err(|error| problems::failed("a step", &error))?
}

/// Takes the names that the tenant and its developers have, and lets its apps be read anew.
async fn settle_names(
    system: &Arc<System>,
    begun: &Begun,
    apps: &Arc<Apps>,
    origin: &Origin,
) -> Result<(), Refusal> {
    if begun.sandbox.is_some() {
        return Ok(());
    }
    let (tenant, reading) = (begun.tenant, system.clone());
    let (state, developers) = blocking(move || developers(&reading, tenant)).await?;
    if let (Some(name), Some(details)) = (address_name(&state), &state.details) {
        let target = ClaimTarget { user: details.owner, tenant };
        take(system, TENANT_NAMES, &name, tenant.0, target, origin).await?;
    }
    for profile in developers {
        for app in &profile.apps {
            apps.forget(app);
            Storefront::refresh(system, app, origin).await?;
        }
        if let Some(nickname) = profile.nickname {
            let target = ClaimTarget { user: profile.user, tenant };
            take(system, NICKNAME, &nickname, profile.user.0, target, origin).await?;
        }
    }
    Ok(())
}

/// A tenant, and its developers that came with it.
fn developers(system: &System, tenant: TenantId) -> Result<(Tenant, Vec<Profile>), Refusal> {
    let state = tenant_state(system, tenant)?;
    let mut profiles = Vec::new();
    for user in state.details.iter().flat_map(|details| details.members.keys()) {
        let place = system.locate(Developer::KIND, &user.to_string());
        if let Some(place) = place.filter(|place| place.home == home_of(tenant)) {
            let developer = system.directory::<Developer>().replay(&place)?;
            profiles.extend(developer.profile().cloned());
        }
    }
    Ok((state, profiles))
}

async fn take(
    system: &System,
    namespace: Namespace,
    value: &str,
    holder: u128,
    target: ClaimTarget,
    origin: &Origin,
) -> Result<(), Refusal> {
    let claim = claim_address(namespace, value, &system.port::<ClaimKey>());
    let claims = system.directory::<Claim>();
    claims.ask(&claim, Reserve { holder }, origin.clone()).await?;
    claims.ask(&claim, Confirm { holder, target }, origin.clone()).await
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use billing::wallet::{Grant, Kind, Reason, Wallet, ledger_sum, wallet_address};
    use extensions::Extensions;
    use identity::password::{Hasher, PasswordPolicy};
    use identity::{Identity, IdentitySettings};
    use persistence::{Journal, MasterKey, Options};
    use supervision::SystemOptions;
    use types::{Amount, GrantId, UserId};

    use super::*;
    use crate::export::{Order, export};
    use crate::history::{Verified, verify_import};
    use crate::service::source;
    use crate::tenant_import::{Begin, TenantImport};

    const ACME: TenantId = TenantId(0x0190_0000_0000_7000_8000_0000_0000_0005);
    const ADA: UserId = UserId(ACME.0);

    pub(crate) struct World {
        pub(crate) system: Arc<System>,
        pub(crate) portability: Arc<Portability>,
    }

    pub(crate) async fn world(folder: &Path) -> World {
        let master = MasterKey::from_bytes([7; 32]);
        let journal = Journal::open(Options::new(folder), &master).unwrap();
        let hasher = Hasher::start(PasswordPolicy::default()).unwrap();
        let claims = ClaimKey::of(&master).unwrap();
        let identity = Identity::new(IdentitySettings::default(), hasher, claims);
        let builder = identity::register(System::builder(SystemOptions::new(journal)), &identity);
        let builder = control::register(billing::register(builder));
        let apps = Apps::new();
        let settings = extensions::Settings::default();
        let _extensions: Arc<Extensions> = Extensions::new(settings, apps.clone(), Vec::new());
        let portability = Portability::new(identity.clone(), apps);
        let builder = market::register(extensions::register(builder));
        let system = crate::register(builder, &portability).start();
        identity.start(&system).await.unwrap();
        World { system, portability }
    }

    /// A tenant with an owner and eight grants, exported.
    async fn exported(folder: &Path, key: &ExportKey) -> (PathBuf, Begun) {
        let World { system, portability } = world(folder).await;
        let origin = system.system_origin();
        let create = identity::tenant::Create {
            id: ACME,
            name: "Acme".to_owned(),
            owner: ADA,
            owner_role: "owner".to_owned(),
            direct: true,
        };
        let tenants = system.directory::<Tenant>();
        tenants.ask(&Tenant::address(ACME), create, origin.clone()).await.unwrap();
        for number in 1..=8 {
            let credits = Amount::new(number).unwrap();
            let id = GrantId(number as u128);
            let grant = Grant::new(id, ACME, credits, Kind::Paid, Reason::Topup);
            let wallets = system.directory::<Wallet>();
            wallets.ask(&wallet_address(ACME), grant, origin.clone()).await.unwrap();
        }
        let path = folder.join("acme");
        let order = Order { tenant: ACME, at: None, leaves: true };
        let exported = export(&system, order, &path, key, &mut |_| {}).unwrap();
        let source = source(&exported.manifest);
        let begun = portability.begun(&system, key, ACME, source, Vec::new()).unwrap();
        system.stop().await;
        (path, begun)
    }

    /// Begins an import, tells three records again, and ends as a process that is cut off does.
    async fn cut_off(folder: &Path, file: &Path, key: &ExportKey, begun: Begun) -> u128 {
        let World { system, portability } = world(folder).await;
        let begun = portability.begun(&system, key, ACME, begun.source, Vec::new()).unwrap();
        let path = staged(&system, begun.id).unwrap();
        std::fs::rename(file, &path).unwrap();
        let (origin, address) = (system.system_origin(), TenantImport::address(begun.id, ACME));
        let _held = portability.run(begun.id).unwrap();
        let imports = system.directory::<TenantImport>();
        imports.ask(&address, Begin(begun.clone()), origin.clone()).await.unwrap();
        let mut telling = Telling::new(&system, &address, &origin, &begun);
        let file_key = key.clone();
        let half = move || {
            each_part(&path, &file_key, |first, records| {
                telling.note(first, &records)?;
                telling.tell(&records[..3])
            })
        };
        blocking(half).await.unwrap();
        assert!(tenant_state(&system, ACME).is_ok());
        system.stop().await;
        begun.id
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_import_that_was_cut_off_goes_on_with_the_next_start() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let key = ExportKey::from_bytes([9; 32]);
        let (file, begun) = exported(folders[0].path(), &key).await;
        let id = cut_off(folders[1].path(), &file, &key, begun).await;
        let World { system, .. } = world(folders[1].path()).await;
        let address = TenantImport::address(id, ACME);
        system.recover().unwrap();
        let imports = system.directory::<TenantImport>();
        let planted = imports.wait(&address, system.system_origin()).await.unwrap().unwrap();
        assert_eq!((planted.records, planted.entities), (9, 2));
        let wallets = system.directory::<Wallet>();
        let now = system.clock().now();
        let look = move |wallet: &Wallet| wallet.balance(now).balance;
        let balance = wallets.look(&wallet_address(ACME), system.system_origin(), look).await;
        assert_eq!(balance.unwrap(), (1..=8).sum::<i64>());
        assert_eq!(ledger_sum(&system, ACME).unwrap(), (1..=8).sum::<i64>());
        system.journal().verify_chain(home_of(ACME)).unwrap();
        let verified = verify_import(&system, address.place()).unwrap();
        assert_eq!(verified, Some(Verified { originals: 9, carried: 9 }));
        while staged(&system, id).unwrap().exists() {
            tokio::task::yield_now().await;
        }
        system.stop().await;
    }
}
