//! What the gateway and the command line call: exporting a tenant, importing one, making and moving
//! a sandbox.
//!
//! Files that are on their way lie in the folder [`FOLDER`] of the data folder: `out-` those that
//! are being answered, `up-` those that are arriving, `in-` those of imports that have begun. The
//! first two mean nothing after a restart; the last are what the next start goes on with, where
//! their imports have not ended.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use extensions::Apps;
use identity::Identity;
use identity::claim::{Claim, ClaimKey, EmailAddress};
use identity::user::User;
use parking_lot::Mutex;
use persistence::Record;
use persistence::tenant_file::{ExportKey, Manifest};
use supervision::{Address, Class, Entity, Origin, Refusal, System};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use types::{TenantId, UserId, base32, home_of};

use crate::carried::Route;
use crate::carry::{blocking, key_context, key_owner};
use crate::examine::{check_free, examine, read_members};
use crate::export::{Exported, Order, export};
use crate::parts::Member;
use crate::problems;
use crate::reserving::Comers;
use crate::tenant_import::{Arrival, Begin, Begun, SealedKey, Source, TenantImport};

/// How many exports are written or answered at a time.
pub const EXPORTS_MAX: usize = 2;
/// How many imports arrive or go on at a time: one, so that no two are of the same tenant.
pub const IMPORTS_MAX: usize = 1;
/// How many sandboxes are copied at a time.
pub const COPIES_MAX: usize = 2;
/// How many records those imports of a tenant may have that came to nothing.
const TRIES_RECORDS_MAX: usize = 1_000;
/// The folder, in the data folder, of files that are on their way.
pub const FOLDER: &str = "tenants";
const STAGED: &str = "in-";

/// Moves tenants. A port.
pub struct Portability {
    pub(crate) identity: Arc<Identity>,
    pub(crate) apps: Arc<Apps>,
    exports: Arc<Semaphore>,
    imports: Arc<Semaphore>,
    copies: Arc<Semaphore>,
    running: Mutex<HashSet<u128>>,
}

/// An import or a copy at work; no other run of the same begins while it lives.
pub(crate) struct Running<'a> {
    running: &'a Mutex<HashSet<u128>>,
    id: u128,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.id);
    }
}

/// An export that is ready to be answered. Its file has no name any more.
pub struct Outgoing {
    /// The file, at its beginning.
    pub file: File,
    /// What it holds.
    pub exported: Exported,
    /// What it is sealed under: told now and never again.
    pub key: ExportKey,
    _permit: OwnedSemaphorePermit,
}

/// A place for a file that arrives. The file goes with it.
pub struct Incoming {
    path: PathBuf,
    _permit: OwnedSemaphorePermit,
}

impl Incoming {
    /// Where the file is to be written.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A tenant that came.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What its file says of itself.
    pub manifest: Manifest,
    /// The tenant, here.
    pub tenant: TenantId,
    /// How many records were told again.
    pub records: u64,
    /// How many entities they make.
    pub entities: u64,
    /// Members who were here, found by their addresses.
    pub found: usize,
    /// Members who were made.
    pub made: usize,
}

fn file(what: &'static str) -> impl FnOnce(std::io::Error) -> Refusal {
    move |error| problems::failed(what, &error)
}

/// The folder of files on their way, made if it is not there. 409 on a server without a disk.
fn folder(system: &System) -> Result<PathBuf, Refusal> {
    let message = "this server keeps nothing on a disk";
    let none = || Refusal::conflict("no_data_folder", message);
    let folder = system.journal().folder().ok_or_else(none)?.join(FOLDER);
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&folder).map_err(file("making a folder"))?;
    Ok(folder)
}

fn path_in(system: &System, prefix: &str, id: u128) -> Result<PathBuf, Refusal> {
    Ok(folder(system)?.join(format!("{prefix}{}", base32(id))))
}

/// Where the file of an import lies.
pub(crate) fn staged(system: &System, id: u128) -> Result<PathBuf, Refusal> {
    path_in(system, STAGED, id)
}

/// Takes away the file of an import that is over.
pub(crate) fn drop_staged(system: &System, import: &str) {
    if let Ok(folder) = folder(system) {
        let _ = std::fs::remove_file(folder.join(format!("{STAGED}{import}")));
    }
}

fn busy(what: &str) -> Refusal {
    Refusal::new(Class::Busy, "busy", format!("too many {what} at a time; try again"))
        .retry_after(5_000)
}

/// Moves or copies a file so that it is durable under its new name.
fn stage(source: &Path, target: &Path) -> std::io::Result<()> {
    if std::fs::rename(source, target).is_err() {
        std::fs::copy(source, target)?;
        File::open(target)?.sync_all()?;
    }
    File::open(target.parent().unwrap_or(Path::new(".")))?.sync_all()
}

impl Portability {
    /// Nothing is on its way yet.
    pub fn new(identity: Arc<Identity>, apps: Arc<Apps>) -> Arc<Self> {
        Arc::new(Self {
            identity,
            apps,
            exports: Arc::new(Semaphore::new(EXPORTS_MAX)),
            imports: Arc::new(Semaphore::new(IMPORTS_MAX)),
            copies: Arc::new(Semaphore::new(COPIES_MAX)),
            running: Mutex::default(),
        })
    }

    /// Takes away what a process that ended has left of files that no import goes on with.
    pub fn clear(system: &System) {
        let folder = system.journal().folder().map(|folder| folder.join(FOLDER));
        let entries = folder.and_then(|folder| std::fs::read_dir(folder).ok());
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            let import = name.to_str().and_then(|name| name.strip_prefix(STAGED));
            let place = import.and_then(|id| system.locate(TenantImport::KIND, id));
            let import = place.map(|place| system.directory::<TenantImport>().replay(&place));
            // One that cannot be read now may be read once an operator has seen to it.
            let is_needed = import.is_some_and(|import| match import {
                Ok(import) => import.is_pending(),
                Err(refusal) => !refusal.is_erased(),
            });
            if !is_needed && std::fs::remove_file(entry.path()).is_err() {
                tracing::warn!(path = %entry.path().display(), "a left-over file stays");
            }
        }
    }

    pub(crate) fn run(&self, id: u128) -> Option<Running<'_>> {
        let running = &self.running;
        let is_first = running.lock().insert(id);
        // Made only then: dropping one takes the id away.
        is_first.then(|| Running { running, id })
    }

    /// Whether this process is at work on it.
    pub(crate) fn is_running(&self, id: u128) -> bool {
        self.running.lock().contains(&id)
    }

    /// Exports a tenant into a file that is ready to be read. 404 without such a tenant, 409
    /// `sandbox` for one, 503 while [`EXPORTS_MAX`] are under way.
    pub async fn export(
        &self,
        system: &Arc<System>,
        tenant: TenantId,
    ) -> Result<Outgoing, Refusal> {
        if system.own_time(home_of(tenant)).is_some() {
            return Err(Refusal::conflict("sandbox", "a sandbox is not exported"));
        }
        if system.journal().is_low_on_space() {
            return Err(Refusal::low_space());
        }
        let permit = self.exports.clone().try_acquire_owned().map_err(|_| busy("exports"))?;
        let system = system.clone();
        blocking(move || {
            let (key, path) = (new_key()?, path_in(&system, "out-", system.new_id())?);
            let order = Order { tenant, at: None, leaves: true };
            let exported = export(&system, order, &path, &key, &mut |_| {})?;
            let opened = File::open(&path);
            // Whoever has it open reads on; nobody else finds it, after a crash neither.
            let removed = std::fs::remove_file(&path);
            let file_ = opened.and_then(|file| removed.map(|()| file));
            let file_ = file_.map_err(file("opening an export"))?;
            Ok(Outgoing { file: file_, exported, key, _permit: permit })
        })
        .await
    }

    /// A place for a file to arrive at. 503 while [`IMPORTS_MAX`] are under way.
    pub fn receive(&self, system: &System) -> Result<Incoming, Refusal> {
        let permit = self.imports.clone().try_acquire_owned().map_err(|_| busy("imports"))?;
        Ok(Incoming { path: path_in(system, "up-", system.new_id())?, _permit: permit })
    }

    /// A place for a copy. 503 while [`COPIES_MAX`] are under way.
    pub(crate) fn copy_place(&self, system: &System) -> Result<Incoming, Refusal> {
        let permit = self.copies.clone().try_acquire_owned().map_err(|_| busy("sandboxes"))?;
        Ok(Incoming { path: path_in(system, "up-", system.new_id())?, _permit: permit })
    }

    /// Imports the tenant in a file that has arrived. Everything is checked before anything is
    /// written: 422 for a file that is none, is cut short, damaged, too new or under another key,
    /// 409 for what is in its way here.
    pub async fn import(
        &self,
        system: &Arc<System>,
        incoming: Incoming,
        key: ExportKey,
        origin: Origin,
    ) -> Result<Imported, Refusal> {
        if system.journal().is_low_on_space() {
            return Err(Refusal::low_space());
        }
        let (path, file_key) = (incoming.path.clone(), key.clone());
        let (manifest, members) = blocking(move || read_members(&path, &file_key)).await?;
        let tenant = TenantId(manifest.tenant);
        check_new(system, tenant)?;
        let mut arrivals = arrivals(system, &members).await?;
        let users: Vec<_> = arrivals.iter().map(|(it, _)| (it.old, it.new)).collect();
        let (path, file_key, system_) = (incoming.path.clone(), key.clone(), system.clone());
        let found = blocking(move || {
            examine(&system_, &path, &file_key, &Route::new(tenant, tenant, &users))
        })
        .await?;
        check_free(system, &found).await?;
        for (arrival, is_here) in &mut arrivals {
            arrival.made_as = found.tenant.membership(arrival.new).filter(|_| !*is_here);
        }
        if system.journal().is_low_on_space() {
            return Err(Refusal::low_space());
        }
        let here = arrivals.iter().filter(|(_, is_here)| *is_here).count();
        let arrivals: Vec<Arrival> = arrivals.into_iter().map(|(arrival, _)| arrival).collect();
        let made = arrivals.iter().filter(|it| it.made_as.is_some()).count();
        let source = source(&found.manifest);
        // From here on nobody signs up with the address of one who comes.
        Comers::new(system, tenant, &arrivals, &members)?.reserve(&origin).await?;
        let begun = self.begun(system, &key, tenant, source, arrivals)?;
        let path = incoming.path.clone();
        let planted = self.begin(system, begun, path, origin).await?;
        let (records, entities) = (planted.records, planted.entities);
        Ok(Imported { manifest, tenant, records, entities, found: here, made })
    }

    pub(crate) fn begun(
        &self,
        system: &System,
        key: &ExportKey,
        tenant: TenantId,
        source: Source,
        arrivals: Vec<Arrival>,
    ) -> Result<Begun, Refusal> {
        let id = system.new_id();
        let keys = system.journal().keys();
        let sealed = keys.seal(key_owner(tenant), &key_context(id), key.bytes());
        let sealed = sealed.map_err(|error| problems::failed("sealing a file's key", &error))?;
        Ok(Begun { id, tenant, source, key: SealedKey(sealed), arrivals, sandbox: None })
    }

    /// Begins an import of the file at `path`, and waits for its end.
    pub(crate) async fn begin(
        &self,
        system: &Arc<System>,
        begun: Begun,
        path: PathBuf,
        origin: Origin,
    ) -> Result<crate::tenant_import::Planted, Refusal> {
        let (target, address) = (staged(system, begun.id)?, import_address(&begun));
        let moved = blocking(move || stage(&path, &target).map_err(file("keeping a file")));
        moved.await?;
        let imports = system.directory::<TenantImport>();
        imports.ask(&address, Begin(begun), origin.clone()).await?;
        let outcome = imports.wait(&address, origin).await?;
        // The process does the same a moment later.
        drop_staged(system, address.id());
        outcome
    }
}

fn import_address(begun: &Begun) -> supervision::Address<TenantImport> {
    TenantImport::address(begun.id, begun.tenant)
}

pub(crate) fn new_key() -> Result<ExportKey, Refusal> {
    ExportKey::generate().map_err(problems::of_file)
}

pub(crate) fn source(manifest: &Manifest) -> Source {
    Source {
        installation: manifest.installation,
        product: manifest.product.clone(),
        tenant: TenantId(manifest.tenant),
        exported_at: supervision::Timestamp(manifest.exported_ms),
        records: manifest.records,
        link: manifest.link,
        root: manifest.root,
    }
}

/// 409 when there is, or was, a tenant of this id. Imports that ended before anything of it was
/// there are no obstacle.
fn check_new(system: &System, tenant: TenantId) -> Result<(), Refusal> {
    if tenant == TenantId::SYSTEM {
        return Err(problems::unfit(&"it is an installation's own tenant"));
    }
    let message = "there is, or was, a tenant with this id here; an id is never used again";
    let exists = || Refusal::conflict("tenant_exists", message);
    is_unused(system, tenant)?.then_some(()).ok_or_else(exists)
}

/// Whether nothing but imports that failed stands in a tenant's chain.
fn is_unused(system: &System, tenant: TenantId) -> Result<bool, Refusal> {
    let records = system.journal().read_chain(home_of(tenant), 1, false, TRIES_RECORDS_MAX + 1);
    let records = records.map_err(|error| problems::failed("reading a chain", &error))?;
    let mut imports = HashSet::new();
    for Record { header, .. } in &records {
        let Some((TenantImport::KIND, id)) = header.stream.as_str().split_once('/') else {
            return Ok(false);
        };
        imports.insert(id.to_owned());
    }
    let has_failed = |id: &String| {
        let place = system.locate(TenantImport::KIND, id);
        let import = place.map(|place| system.directory::<TenantImport>().replay(&place));
        matches!(import, Some(Ok(it)) if it.has_failed() && it.planted().is_none())
    };
    Ok(records.len() <= TRIES_RECORDS_MAX && imports.iter().all(has_failed))
}

/// 409 `member_unverified` when somebody chose a password for this account and never showed that
/// its address is their own: by that address they must not become a member.
async fn check_is_own(system: &System, user: Address<User>) -> Result<(), Refusal> {
    let is_doubtful = |it: &User| {
        it.profile.as_ref().is_none_or(|it| !it.email_verified && it.password.is_some())
    };
    let users = system.directory::<User>();
    if users.look(&user, system.system_origin(), is_doubtful).await? {
        let message = format!("{} is here with an address that was never verified", user.id());
        return Err(Refusal::conflict("member_unverified", message));
    }
    Ok(())
}

/// Who the members are here, and whether they were here before.
async fn arrivals(system: &System, members: &[Member]) -> Result<Vec<(Arrival, bool)>, Refusal> {
    let (claims, key) = (system.directory::<Claim>(), system.port::<ClaimKey>());
    let mut arrivals = Vec::new();
    for member in members {
        let claim = EmailAddress::new(&member.email)?.claim(&key);
        // One that somebody is signing up with at this moment is lost when it is to be reserved.
        let found = claims.look(&claim, system.system_origin(), Claim::confirmed).await?;
        if let Some((_, target)) = found {
            check_is_own(system, User::address(target.user, target.tenant)).await?;
        }
        let old = member.user;
        let new = match found {
            Some((_, target)) => target.user,
            None if system.locate(User::KIND, &old.to_string()).is_none() => old,
            // The id is somebody else's by now, or the address has changed: whose it is shows in
            // the address alone.
            None => UserId(system.new_id()),
        };
        arrivals.push((Arrival { old, new, made_as: None }, found.is_some()));
    }
    Ok(arrivals)
}
