//! Erasing a person and a tenant, on a whole system in memory.

use identity::Inviting;
use identity::claim::EmailAddress;
use identity::erasure::{Conclude, Erasure, Receipt, Subject};
use identity::invitation::Invitation;
use identity::tenant::{Departure, Inviter, SetActive};
use persistence::RowRange;
use supervision::Home;
use supervision::address::TENANT_KEY_CLASS;
use supervision::reminders::PENDING_FAMILY;
use types::InvitationId;

use super::*;

const BOBS: &str = "bob@example.test";
const ACME: TenantId = TenantId(50);

impl World {
    async fn erase_user(&self, user: UserId) -> Result<Receipt, Refusal> {
        let origin = self.system.system_origin();
        self.identity.erase_user(user, "asked for".to_owned(), origin).await?;
        self.receipt(Subject::User(user)).await
    }

    async fn receipt(&self, subject: Subject) -> Result<Receipt, Refusal> {
        let (address, origin) = (Erasure::address(subject), self.system.system_origin());
        self.system.directory::<Erasure>().ask(&address, Conclude, origin).await
    }

    /// A tenant with an owner, who knows.
    async fn acme(&self, owner: UserId) {
        let (name, owner_role) = ("Acme".to_owned(), OWNER_ROLE.to_owned());
        let create = tenant::Create { id: ACME, name, owner, owner_role, direct: false };
        let origin = self.system.system_origin();
        self.identity.change_members(ACME, create, origin).await.unwrap();
    }

    async fn join(&self, user: UserId, role: &str) {
        let (role, rights) = (role.to_owned(), Scopes::all());
        let add = AddMember { user, role, rights, is_new: true };
        let origin = self.system.system_origin();
        self.identity.change_members(ACME, add, origin).await.unwrap();
    }

    async fn invite(&self, id: InvitationId, tenant: TenantId, email: &str) {
        let by = Inviting { inviter: Inviter::Service, by: None, rights: Scopes::all() };
        let invite = self.identity.invitation(id, tenant, email, "viewer".to_owned(), by).await;
        let (invitations, origin) = (self.system.directory(), self.system.system_origin());
        let address = Invitation::address(id, tenant);
        invitations.ask(&address, invite.unwrap(), origin).await.unwrap();
    }

    fn pending(&self) -> usize {
        let rows = |shard| {
            let (family, prefix, after) = (PENDING_FAMILY, Vec::new(), None);
            let shard = persistence::Shard(shard);
            let range = RowRange { shard, family, prefix, after, newest_first: false, limit: 9 };
            self.system.journal().row_range(&range).unwrap().len()
        };
        (0..=u8::MAX).map(rows).sum()
    }

    fn has_key(&self, class: u8, id: u128) -> bool {
        self.system.journal().keys().number_of(KeyId { class, id }).is_some()
    }

    /// What every live actor shows, and where mails went.
    async fn shows(&self, text: &str) -> bool {
        let mut all = String::new();
        for kind in self.system.kinds() {
            for view in kind.actors(1_000) {
                let place = self.system.locate(kind.kind(), &view.id);
                if let Some(place) = place {
                    all += &format!("{:?}", kind.observe(place).await);
                }
            }
        }
        all.contains(text)
    }
}

#[tokio::test]
async fn a_person_is_erased_with_everything_that_gave_access() {
    let world = world().await;
    let (ada, bob) = (world.sign_up(EMAIL).await, world.sign_up(BOBS).await);
    world.acme(bob).await;
    world.join(ada, "admin").await;
    let tokens = world.login().await;
    let to_acme = LoginAttempt { tenant: Some(ACME), ..attempt(EMAIL, PASSWORD) };
    let others = world.identity.login(to_acme).await.unwrap();
    assert!(world.is_good(&tokens).await && world.is_good(&others).await);
    // Two mails wait: a link, and an invitation from before there was an account.
    world.outbox.shut.store(true, Ordering::SeqCst);
    let own = bob.direct_tenant();
    world.invite(InvitationId(9), own, EMAIL).await;
    let origin = || world.system.system_origin();
    world.identity.send_link(Purpose::VerifyEmail, ada, 1, origin()).await.unwrap();
    let office = world.system.port::<PostOffice>();
    until(|| office.figures().waiting == 2 && office.figures().failed == 2).await;

    let receipt = world.erase_user(ada).await.unwrap();
    let found = &receipt.found;
    assert_eq!((found.sessions, found.memberships, found.invitations), (2, 2, 1));
    assert_eq!((found.mails, found.api_keys, found.second_factors), (2, 0, 0));
    assert!(!receipt.key_numbers.is_empty() && receipt.begun.by == "system");
    assert!(!world.is_good(&tokens).await && !world.is_good(&others).await);
    for refresh in [&tokens.refresh_token, &others.refresh_token] {
        assert_eq!(code(world.refresh(refresh).await), "invalid_token");
    }
    let unknown = world.try_login("nobody@example.test", PASSWORD).await.unwrap_err();
    assert_eq!(world.try_login(EMAIL, PASSWORD).await.unwrap_err(), unknown);
    assert_eq!(code(world.identity.user(ada, own).await.map(drop)), "not_found");
    assert!(!world.has_key(USER_KEY_CLASS, ada.0) && !world.has_key(TENANT_KEY_CLASS, ada.0));
    assert!(!world.has_key(USER_KEY_CLASS, 9), "the invitation's");
    assert_eq!(office.figures().waiting, 0);
    assert!(!world.shows("ada@").await);
    let members = move |it: &Tenant| it.details.as_ref().map(|it| it.members.len());
    let acme = world.identity.look_tenant(ACME, members).await.unwrap().flatten();
    assert_eq!(acme, Some(1), "Bob stays");
    assert_eq!(world.identity.look_tenant(ada.direct_tenant(), |_| ()).await, Ok(None));
    let again = world.erase_user(ada).await.unwrap();
    assert_eq!(again, receipt, "a repetition answers the same");
    assert!(world.receipt(Subject::Tenant(ada.direct_tenant())).await.is_ok());
    until(|| world.pending() == 0).await;

    let world = world.restarted(POLICY).await;
    assert_eq!(world.system.recover().unwrap().pending, 0);
    assert_eq!(world.try_login(EMAIL, PASSWORD).await.unwrap_err(), unknown);
    assert!(!world.is_good(&tokens).await);
    for home in [Home(0), Home(ada.0), Home(bob.0), Home(ACME.0)] {
        world.system.journal().verify_chain(home).unwrap();
    }
    for kind in world.system.kinds() {
        let view = kind.kind_view();
        assert_eq!((view.crashes, view.quarantined.len()), (0, 0), "{}", view.kind);
    }
    // The address is free, and known to have been held.
    let claim = EmailAddress::new(EMAIL).unwrap().claim(world.identity.claim_key());
    let origin = world.system.system_origin();
    let look = |claim: &Claim| (claim.confirmed().is_none(), claim.was_held());
    assert_eq!(world.system.directory().look(&claim, origin, look).await, Ok((true, true)));
    let anew = world.sign_up(EMAIL).await;
    assert!(anew != ada && world.login().await.user == anew);
}

#[tokio::test]
async fn nobody_is_erased_whom_others_need_as_an_owner() {
    let world = world().await;
    let (ada, bob) = (world.sign_up(EMAIL).await, world.sign_up(BOBS).await);
    world.acme(ada).await;
    world.join(bob, "viewer").await;
    let tokens = world.login().await;
    let refusal = world.erase_user(ada).await.unwrap_err();
    assert_eq!((refusal.class, refusal.code.as_str()), (Class::Conflict, "last_owner"));
    assert!(refusal.facts.unwrap().contains(&ACME.to_string()) && world.is_good(&tokens).await);
    assert!(world.receipt(Subject::User(ada)).await.is_err(), "nothing began");
    let (role, rights) = ("owner".to_owned(), Scopes::all());
    let change = AddMember { user: bob, role, rights, is_new: false };
    let origin = || world.system.system_origin();
    world.identity.change_members(ACME, change, origin()).await.unwrap();
    let departure = move |it: &Tenant| it.departure(ada);
    let departure = world.identity.look_tenant(ACME, departure).await.unwrap();
    assert_eq!(departure, Some(Departure::OthersStay));
    world.erase_user(ada).await.unwrap();
    // Alone in a tenant that is no own one: it is switched off, and stays.
    world.erase_user(bob).await.unwrap();
    let acme = world.identity.look_tenant(ACME, Tenant::is_active).await.unwrap();
    assert_eq!(acme, Some(false));
    let missing = world.identity.erase_user(UserId(1), String::new(), origin()).await;
    assert_eq!(code(missing), "not_found");
}

#[tokio::test]
async fn a_tenant_is_erased_and_its_people_stay() {
    let world = world().await;
    let (ada, bob) = (world.sign_up(EMAIL).await, world.sign_up(BOBS).await);
    world.acme(ada).await;
    world.join(bob, "viewer").await;
    world.invite(InvitationId(9), ACME, "eve@example.test").await;
    let to_acme = LoginAttempt { tenant: Some(ACME), ..attempt(BOBS, PASSWORD) };
    let (own, others) = (world.login().await, world.identity.login(to_acme).await.unwrap());
    let origin = || world.system.system_origin();
    let erase = |tenant| world.identity.erase_tenant(tenant, "asked for".to_owned(), origin());
    for tenant in [ada.direct_tenant(), TenantId::SYSTEM, TenantId(51)] {
        let refused = code(erase(tenant).await);
        assert!(["own_tenant", "not_found"].contains(&refused.as_str()), "{refused}");
    }
    erase(ACME).await.unwrap();
    let receipt = world.receipt(Subject::Tenant(ACME)).await.unwrap();
    let found = &receipt.found;
    assert_eq!((found.memberships, found.sessions, found.invitations), (2, 1, 1));
    assert!(world.is_good(&own).await && !world.is_good(&others).await);
    assert_eq!(code(world.refresh(&others.refresh_token).await), "invalid_token");
    assert_eq!(world.identity.tenants_of(ada).await, Ok(vec![ada.direct_tenant()]));
    assert_eq!(world.identity.look_tenant(ACME, |_| ()).await, Ok(None));
    assert!(!world.has_key(TENANT_KEY_CLASS, ACME.0) && !world.has_key(USER_KEY_CLASS, 9));
    let service = world.identity.admit_service(ACME, None).await;
    assert_eq!(code(service), "not_found");
    let on = SetActive { active: true };
    let refusal = world.identity.change_tenant(ACME, on, origin()).await.unwrap_err();
    assert!(refusal.is_erased(), "nobody switches it on again");
    erase(ACME).await.unwrap();
    world.system.journal().verify_chain(Home(ACME.0)).unwrap();
    assert!(world.identity.invitations(ACME, None, 10).unwrap().is_empty());
}
