//! Members whose addresses somebody else takes meanwhile, and sandboxes that were never made, over
//! whole systems.

use std::path::{Path, PathBuf};

use identity::claim::{Claim, ClaimKey, ClaimTarget, Confirm, EmailAddress, Reserve};
use identity::tenant::{AddMember, Create, Tenant};
use identity::user::{self, AuthMethod, Membership, User};
use persistence::tenant_file::ExportKey;
use supervision::{Entity as _, Refusal};
use types::{JsonBytes, Scopes, TenantId, UserId, home_of};

use crate::carry::blocking;
use crate::carry::tests::{World, world};
use crate::export::{Order, export};
use crate::sandbox::{Count, SANDBOXES_MAX, Sandboxes};
use crate::service::{Imported, source, staged};
use crate::tenant_import::{Arrival, Begin, TenantImport};

const ACME: TenantId = TenantId(0x0190_0000_0000_7000_8000_0000_0000_0005);
const ADA: UserId = UserId(ACME.0);
const BOB: UserId = UserId(ACME.0 + 1);
/// Somebody else, at the place where the tenant comes to.
const EVE: UserId = UserId(ACME.0 + 2);
const MEMBERS: [(UserId, &str); 2] = [(ADA, "ada@example.com"), (BOB, "bob@example.com")];

fn key() -> ExportKey {
    ExportKey::from_bytes([9; 32])
}

impl World {
    /// Makes a user, with the address as a claim.
    async fn user(&self, user: UserId, home: TenantId, email: &str) {
        let (system, origin) = (&self.system, self.system.system_origin());
        let claims = system.directory::<Claim>();
        let claim = EmailAddress::new(email).unwrap().claim(&system.port::<ClaimKey>());
        claims.ask(&claim, Reserve { holder: user.0 }, origin.clone()).await.unwrap();
        let create = user::Create {
            id: user,
            home,
            membership: Membership { role: "owner".to_owned(), scopes: Scopes::all() },
            email: email.to_owned(),
            name: None,
            password: None,
            auth_method: AuthMethod::Password,
            email_verified: true,
            attributes: JsonBytes::default(),
        };
        let users = system.directory::<User>();
        users.ask(&User::address(user, home), create, origin.clone()).await.unwrap();
        let confirm = Confirm { holder: user.0, target: ClaimTarget { user, tenant: home } };
        claims.ask(&claim, confirm, origin).await.unwrap();
    }

    /// Who has an address now.
    async fn holder(&self, email: &str) -> Option<u128> {
        let (system, now) = (&self.system, self.system.clock().now());
        let claim = EmailAddress::new(email).unwrap().claim(&system.port::<ClaimKey>());
        let holder = move |claim: &Claim| claim.holder(now);
        system.directory::<Claim>().look(&claim, system.system_origin(), holder).await.unwrap()
    }

    async fn import(&self, file: &Path) -> Result<Imported, Refusal> {
        let incoming = self.portability.receive(&self.system).unwrap();
        std::fs::copy(file, incoming.path()).unwrap();
        let origin = self.system.system_origin();
        self.portability.import(&self.system, incoming, key(), origin).await
    }

    fn is_here(&self, user: UserId) -> bool {
        self.system.locate(User::KIND, &user.to_string()).is_some()
    }
}

/// A tenant of two, exported.
async fn exported(folder: &Path) -> PathBuf {
    let world = world(folder).await;
    let (system, origin) = (&world.system, world.system.system_origin());
    let (name, owner_role) = ("Acme".to_owned(), "owner".to_owned());
    let create = Create { id: ACME, name, owner: ADA, owner_role, direct: true };
    let (tenants, address) = (system.directory::<Tenant>(), Tenant::address(ACME));
    tenants.ask(&address, create, origin.clone()).await.unwrap();
    let (role, rights) = ("viewer".to_owned(), Scopes::all());
    let add = AddMember { user: BOB, role, rights, is_new: true };
    tenants.ask(&address, add, origin).await.unwrap();
    for (user, email) in MEMBERS {
        world.user(user, ACME, email).await;
    }
    let path = folder.join("acme");
    let (reading, to) = (system.clone(), path.clone());
    let order = Order { tenant: ACME, at: None, leaves: true };
    blocking(move || export(&reading, order, &to, &key(), &mut |_| {})).await.unwrap();
    system.stop().await;
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_loses_an_address_to_a_sign_up_leaves_nothing_and_may_come_again() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let file = exported(folders[0].path()).await;
    let world = world(folders[1].path()).await;
    let system = &world.system;
    // Eve is in the middle of signing up with Bob's address.
    let claim = EmailAddress::new(MEMBERS[1].1).unwrap().claim(&system.port::<ClaimKey>());
    let claims = system.directory::<Claim>();
    claims.ask(&claim, Reserve { holder: EVE.0 }, system.system_origin()).await.unwrap();
    let refused = world.import(&file).await.unwrap_err();
    assert_eq!(refused.code, "addresses_taken", "{refused}");
    assert_eq!(refused.facts.as_deref(), Some(r#"{"addresses":1}"#));
    assert_eq!(system.journal().chain_head(home_of(ACME)).unwrap().chain_seq, 0);
    assert_eq!(world.holder(MEMBERS[0].1).await, None, "it was given back");
    // She has an account then: Bob is found by the address.
    world.user(EVE, EVE.direct_tenant(), MEMBERS[1].1).await;
    let came = world.import(&file).await.unwrap();
    assert_eq!((came.found, came.made), (1, 1));
    assert!(world.is_here(ADA) && !world.is_here(BOB));
    assert_eq!(world.holder(MEMBERS[0].1).await, Some(ADA.0));
    system.stop().await;
}

/// Begins an import as it is before its first step, and ends as a process that is cut off does.
async fn cut_off(folder: &Path, file: &Path) -> u128 {
    let world = world(folder).await;
    let (system, portability) = (&world.system, &world.portability);
    let (manifest, _) = crate::examine::read_members(file, &key()).unwrap();
    let membership = Membership { role: "viewer".to_owned(), scopes: Scopes::default() };
    let made_as = Some(membership);
    let arrival = |(user, _)| Arrival { old: user, new: user, made_as: made_as.clone() };
    let arrivals = MEMBERS.into_iter().map(arrival).collect();
    let begun = portability.begun(system, &key(), ACME, source(&manifest), arrivals).unwrap();
    let id = begun.id;
    std::fs::copy(file, staged(system, id).unwrap()).unwrap();
    let _held = portability.run(id).unwrap();
    let imports = system.directory::<TenantImport>();
    let address = TenantImport::address(id, ACME);
    imports.ask(&address, Begin(begun), system.system_origin()).await.unwrap();
    system.stop().await;
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_lost_while_nobody_runs_ends_the_import_with_nothing_left() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let file = exported(folders[0].path()).await;
    let id = cut_off(folders[1].path(), &file).await;
    let world = world(folders[1].path()).await;
    let system = &world.system;
    // A reservation lapses while the server is down; whoever comes first then has the address.
    world.user(EVE, EVE.direct_tenant(), MEMBERS[1].1).await;
    system.recover().unwrap();
    let (imports, address) = (system.directory::<TenantImport>(), TenantImport::address(id, ACME));
    let refused = imports.wait(&address, system.system_origin()).await.unwrap().unwrap_err();
    assert_eq!(refused.code, "addresses_taken");
    assert!(!world.is_here(ADA) && !world.is_here(BOB), "no account is left");
    assert_eq!(world.holder(MEMBERS[0].1).await, None);
    assert!(system.locate(Tenant::KIND, Tenant::address(ACME).id()).is_none());
    while staged(system, id).unwrap().exists() {
        tokio::task::yield_now().await;
    }
    let came = world.import(&file).await.unwrap();
    assert_eq!((came.tenant, came.found, came.made), (ACME, 1, 1));
    let again = world.import(&file).await.unwrap_err();
    assert_eq!(again.code, "tenant_exists", "now it is here");
    system.stop().await;
}

async fn open(world: &World) -> Result<TenantId, Refusal> {
    let (portability, system) = (&world.portability, &world.system);
    let origin = system.system_origin();
    portability.open_sandbox(system, ACME, "copy".to_owned(), None, origin).await
}

/// Counts as many sandboxes as there may be, and ends before any of them is begun.
async fn given_up(folder: &Path) {
    let world = world(folder).await;
    let (system, address) = (&world.system, Sandboxes::address(ACME));
    let mut making = Vec::new();
    for sandbox in 1..=SANDBOXES_MAX as u128 {
        making.push(world.portability.run(sandbox).unwrap());
        let sandbox = TenantId(sandbox);
        let count = Count { sandbox, name: "copy".to_owned(), over: Vec::new() };
        let sandboxes = system.directory::<Sandboxes>();
        sandboxes.ask(&address, count, system.system_origin()).await.unwrap();
    }
    assert_eq!(open(&world).await.unwrap_err().code, "too_many_sandboxes", "they are being made");
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_that_nobody_makes_any_more_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    exported(folder.path()).await;
    given_up(folder.path()).await;
    let world = world(folder.path()).await;
    for _ in 0..SANDBOXES_MAX {
        open(&world).await.unwrap();
    }
    assert_eq!(open(&world).await.unwrap_err().code, "too_many_sandboxes");
    world.system.stop().await;
}
