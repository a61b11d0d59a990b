//! Every event that was ever written stays readable: each is read from the bytes in
//! `testdata/events`, and written as those bytes again while its version is the present one.
//! `WRITE_FIXTURES=1` writes the files that are missing.
#![expect(clippy::unwrap_used, reason = "a check that cannot set itself up has failed")]

use std::collections::BTreeSet;
use std::path::Path;

use data_encoding::HEXLOWER;
use identity::agency;
use identity::api_key::{self, ApiKey, ApiKeyEvent, ApiKeys, Maker};
use identity::claim::{self, Claim, ClaimEvent, ClaimTarget};
use identity::device_login::{self, DeviceLogin, DeviceLoginEvent};
use identity::erasure::{self, Erasure, ErasureEvent, Subject};
use identity::invitation::{self, Invitation, InvitationEvent};
use identity::mail::{self, Letter, Mail, MailEvent};
use identity::mail_link::{self, MailLink, MailLinkEvent, Purpose};
use identity::new_tenant::{self, NewTenant, NewTenantEvent};
use identity::passkey::PublicKey;
use identity::refresh::{EndReason, TokenHash};
use identity::role::{Role, Terms};
use identity::second_factor::{self as factor, FactorId, RecoveryHash, SecondFactorEvent};
use identity::session::{self, Session, SessionEvent};
use identity::sign_in_policy::{PolicySet, SignInPolicy, SignInPolicyEvent};
use identity::signing::{self, SigningEvent, SigningKeyRing};
use identity::tenant::{self, Tenant, TenantEvent};
use identity::user::{self, AuthMethod, MadeUnder, Membership, User, UserEvent};
use identity::user_settings::{Changed, UserSettings, UserSettingsEvent};
use persistence::codec;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use supervision::{Entity, Event, Refusal, Timestamp};
use types::{
    InvitationId, JsonBytes, KeyIdentifier, Personal, RoleIdentifier, Scopes, SessionId, TenantId,
    UserId,
};

const USER: UserId = UserId(0x0190_0000_0000_7000_8000_0000_0000_0001);
const TENANT: TenantId = TenantId(0x0190_0000_0000_7000_8000_0000_0000_0002);
const SESSION: SessionId = SessionId(0x0190_0000_0000_7000_8000_0000_0000_0003);

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A sealed field, as it is stored; what it seals does not matter here.
fn personal(byte: u8) -> Personal {
    codec::decode(&codec::encode(&vec![byte; 40]).unwrap()).unwrap()
}

fn token_hash() -> TokenHash {
    read(json!(vec![7; 32]))
}

fn check<E: Entity>(samples: Vec<E::Event>)
where
    E::Event: PartialEq,
{
    check_with_past::<E>(samples, vec![]);
}

/// With what payloads of earlier versions are read as.
fn check_with_past<E: Entity>(samples: Vec<E::Event>, past: Vec<(u16, E::Event)>)
where
    E::Event: PartialEq,
{
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/events");
    let mut shown = BTreeSet::new();
    for sample in &samples {
        let (name, version) = (sample.name(), sample.version());
        shown.insert((name, version));
        let file = folder.join(format!("{}.{name}.{version}.hex", E::KIND));
        let written = HEXLOWER.encode(&sample.encode().unwrap());
        if std::env::var_os("WRITE_FIXTURES").is_some() && !file.exists() {
            std::fs::write(&file, format!("{written}\n")).unwrap();
        }
        let Ok(golden) = std::fs::read_to_string(&file) else {
            panic!("{} is missing; today it is\n{written}", file.display());
        };
        assert_eq!(written, golden.trim_end(), "{} {name} {version}", E::KIND);
        let bytes = HEXLOWER.decode(golden.trim_end().as_bytes()).unwrap();
        assert_eq!(E::Event::decode(name, version, &bytes).unwrap(), *sample);
    }
    for (version, read_as) in past {
        let name = read_as.name();
        shown.insert((name, version));
        let file = folder.join(format!("{}.{name}.{version}.hex", E::KIND));
        let golden = std::fs::read_to_string(&file).unwrap();
        let bytes = HEXLOWER.decode(golden.trim_end().as_bytes()).unwrap();
        assert_eq!(E::Event::decode(name, version, &bytes).unwrap(), read_as);
    }
    let catalogue = BTreeSet::from_iter(E::Event::catalogue().iter().copied());
    assert_eq!(shown, catalogue, "every event of {} has its file", E::KIND);
    // What was recorded is never refused, even by an entity that knows of nothing before.
    let mut entity = E::default();
    for sample in &samples {
        entity.apply(sample, Timestamp(1));
    }
    for sample in samples.iter().rev() {
        E::default().apply(sample, Timestamp(1));
    }
    let stored = codec::encode(&entity).unwrap();
    let restored: E = codec::decode(&stored).unwrap();
    assert_eq!(codec::encode(&restored).unwrap(), stored, "the state is stored and read back");
}

#[test]
fn claims() {
    let (holder, until) = (USER.0, Timestamp(1_767_225_660_000));
    let target = ClaimTarget { user: USER, tenant: TENANT };
    check::<Claim>(vec![
        ClaimEvent::Reserved(claim::Reserved { holder, until }),
        ClaimEvent::Lapsed(claim::Lapsed { holder }),
        ClaimEvent::Released(claim::Released { holder }),
        ClaimEvent::Retired(claim::Retired { holder }),
        ClaimEvent::Vacated(claim::Vacated { holder }),
        ClaimEvent::Confirmed(claim::Confirmed { holder, target }),
    ]);
}

#[test]
fn users() {
    let membership = Membership {
        role: "owner".to_owned(),
        scopes: Scopes::from_iter(["wallet:spend", "apps.*"]),
    };
    let attributes = JsonBytes::from(json!({"team": "red"}));
    let created = user::Created {
        id: USER,
        home: TENANT,
        membership: membership.clone(),
        email: personal(1),
        name: Some(personal(2)),
        password: Some("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA".to_owned().into()),
        auth_method: AuthMethod::Password,
        email_verified: false,
        attributes: attributes.clone(),
    };
    let password = created.password.clone().unwrap();
    let replaced = password.clone();
    check::<User>(vec![
        UserEvent::Created(created),
        UserEvent::EmailVerified(user::EmailVerified {}),
        UserEvent::PasswordChanged(user::PasswordChanged { password: password.clone() }),
        UserEvent::PasswordRehashed(user::PasswordRehashed { password }),
        UserEvent::MembershipSet(user::MembershipSet {
            tenant: TenantId(9),
            membership,
            version: 4,
        }),
        UserEvent::MembershipRemoved(user::MembershipRemoved { tenant: TENANT, version: 5 }),
        UserEvent::AttributesSet(user::AttributesSet { attributes }),
        UserEvent::ActiveSet(user::ActiveSet { active: false }),
        UserEvent::TokensRevoked(user::TokensRevoked {}),
        UserEvent::VerificationAwaited(user::VerificationAwaited {}),
        UserEvent::PasswordReplaced(user::PasswordReplaced { password: replaced }),
        UserEvent::Reclaimed(user::Reclaimed {}),
        UserEvent::NicknameSet(user::NicknameSet { nickname: personal(5) }),
    ]);
}

#[test]
fn tenants() {
    let created = tenant::Created {
        id: TENANT,
        name: "Acme".to_owned(),
        owner: USER,
        owner_role: "owner".to_owned(),
        direct: true,
    };
    let settings = JsonBytes::from(json!({"features": {}}));
    let role = "admin".to_owned();
    let scopes = Scopes::from_iter(["wallet:read"]);
    let terms = Terms {
        display_name: "Clerk".to_owned(),
        scopes: scopes.clone(),
        attributes: JsonBytes::from(json!({"desk": 4})),
        extensions: vec!["notes".to_owned()],
        confirmation_policy: "default_off".to_owned(),
        max_concurrent_tasks: 3,
        monthly_action_limit: 500,
        context_window: 20,
    };
    let id = RoleIdentifier(0x0190_0000_0000_7000_8000_0000_0000_0004);
    let own = Role { id, name: "clerk".to_owned(), created_at: Timestamp(1), terms };
    let name = own.name.clone();
    check::<Tenant>(vec![
        TenantEvent::Created(created),
        TenantEvent::Updated(tenant::Updated { name: "Acme & Co".to_owned(), settings }),
        TenantEvent::MemberSet(tenant::MemberSet { user: UserId(9), role }),
        TenantEvent::MemberRemoved(tenant::MemberRemoved { user: USER }),
        TenantEvent::ActiveSet(tenant::ActiveSet { active: false }),
        TenantEvent::TokensRevoked(tenant::TokensRevoked {}),
        TenantEvent::GrantsSet(tenant::GrantsSet { user: UserId(9), scopes }),
        TenantEvent::RoleSet(tenant::RoleSet { role: own }),
        TenantEvent::RoleCascaded(tenant::RoleCascaded { name: name.clone() }),
        TenantEvent::RoleRemoved(tenant::RoleRemoved { name }),
        TenantEvent::MembersTold(tenant::MembersTold {
            told: vec![tenant::Told { user: UserId(9), version: 2 }],
        }),
        TenantEvent::TellingRetried(supervision::Retried {}),
        TenantEvent::MemberActiveSet(tenant::MemberActiveSet { user: USER, active: false }),
        TenantEvent::MemberAttributesSet(tenant::MemberAttributesSet {
            user: USER,
            attributes: personal(6),
        }),
        TenantEvent::ScopeSet(tenant::ScopeSet {
            scope: tenant::OwnScope {
                resource: "reports".to_owned(),
                action: "export".to_owned(),
                display_name: "Export".to_owned(),
                description: "Take reports out".to_owned(),
                created_at: Timestamp(1),
            },
        }),
        TenantEvent::ScopeRemoved(tenant::ScopeRemoved { name: "reports:export".to_owned() }),
    ]);
}

#[test]
fn agencies() {
    let text = |text: &str| text.to_owned();
    let settings = JsonBytes::from(json!({"retention_days": 30}));
    check::<agency::Agency>(vec![
        agency::AgencyEvent::Created(agency::AgencyCreated {
            id: text("north"),
            display_name: text("North"),
            domain: Some(text("north.example")),
            settings: None,
        }),
        agency::AgencyEvent::SettingsSet(agency::AgencySettingsSet { settings }),
    ]);
    check::<agency::AgencyMember>(vec![agency::AgencyMemberEvent::Assigned(
        agency::AgencyAssigned { user: USER, agency: Some(text("north")) },
    )]);
}

#[test]
fn invitations() {
    let invited = invitation::Invited {
        id: InvitationId(0x0190_0000_0000_7000_8000_0000_0000_0005),
        tenant: TENANT,
        email: personal(4),
        email_tag: "email/0011".to_owned(),
        role: "clerk".to_owned(),
        role_id: Some(RoleIdentifier(0x0190_0000_0000_7000_8000_0000_0000_0004)),
        invited_by: Some(USER),
        inviter: tenant::Inviter::Operator(USER),
        created_at: Timestamp(1_767_225_600_000),
        expires_at: Timestamp(1_767_830_400_000),
    };
    let first = invitation::Invited {
        role: "user".to_owned(),
        role_id: None,
        inviter: tenant::Inviter::Member(USER),
        ..invited.clone()
    };
    let samples = vec![
        InvitationEvent::Invited(invited),
        InvitationEvent::Mailed(invitation::Mailed {}),
        InvitationEvent::Retried(supervision::Retried {}),
        InvitationEvent::Accepted(invitation::Accepted { user: UserId(9) }),
        InvitationEvent::Joined(invitation::Joined { refusal: Some(Refusal::busy()) }),
        InvitationEvent::Revoked(invitation::Revoked {}),
        InvitationEvent::Expired(invitation::Expired {}),
    ];
    check_with_past::<Invitation>(samples, vec![(1, InvitationEvent::Invited(first))]);
    // On whose word is stored by the order.
    let inviters =
        [tenant::Inviter::Member(USER), tenant::Inviter::Operator(USER), tenant::Inviter::Service];
    assert_eq!(inviters.map(|it| codec::encode(&it).unwrap()[0]), [0, 1, 2]);
}

#[test]
fn new_tenants() {
    let started = new_tenant::Started {
        tenant: TENANT,
        owner: USER,
        name: "Acme".to_owned(),
        address_name: Some("acme".to_owned()),
        settings: JsonBytes::from(json!({"features": {}})),
    };
    check::<NewTenant>(vec![
        NewTenantEvent::Started(started),
        NewTenantEvent::Retried(supervision::Retried {}),
        NewTenantEvent::Ended(new_tenant::Ended { refusal: Some(Refusal::not_found("user")) }),
    ]);
}

#[test]
fn erasures() {
    let begun = |subject| {
        let (by, reason) = (format!("user/{USER}"), "asked for".to_owned());
        ErasureEvent::Begun(erasure::Begun { subject, by, reason })
    };
    let found = erasure::Found {
        sessions: 2,
        api_keys: 1,
        second_factors: 3,
        memberships: 300,
        invitations: 4,
        mails: 5,
        key_numbers: vec![7, 70_000],
        email_tag: Some("email/00ff".to_owned()),
    };
    let key_numbers = vec![7];
    check::<Erasure>(vec![
        begun(Subject::User(USER)),
        ErasureEvent::Found(found),
        ErasureEvent::Parted(erasure::Parted {}),
        ErasureEvent::Retried(erasure::Retried {}),
        ErasureEvent::Ended(erasure::Ended { refusal: None, key_numbers }),
    ]);
    // What a tenant is written as is for ever too.
    let tenant = begun(Subject::Tenant(TENANT)).encode().unwrap();
    assert_eq!(ErasureEvent::decode("begun", 1, &tenant).unwrap(), begun(Subject::Tenant(TENANT)));
    assert_eq!(tenant[0], 1);
}

#[test]
fn sessions() {
    let at_ms = 1_767_225_600_000;
    let opened = session::Opened {
        session: SESSION,
        user: USER,
        tenant: TENANT,
        user_epoch: 3,
        device: Some(personal(3)),
        secret: read(json!(vec![5; 32])),
        at_ms,
    };
    let ended = |reason| SessionEvent::Ended(session::Ended { at_ms, reason });
    check::<Session>(vec![
        SessionEvent::Opened(opened),
        SessionEvent::Refreshed(session::Refreshed { at_ms, successor: token_hash() }),
        SessionEvent::Moved(session::Moved { device: personal(4) }),
        ended(EndReason::Expired),
    ]);
    // The reasons are stored by their order.
    let bytes = |reason| ended(reason).encode().unwrap().pop().unwrap();
    let reasons = [EndReason::Reuse, EndReason::Revoked, EndReason::Expired];
    assert_eq!(reasons.map(bytes), [0, 1, 2]);
}

#[test]
fn api_keys() {
    let id = |number: u128| KeyIdentifier(USER.0 + number);
    let key = ApiKey {
        id: id(3),
        name: "a key".to_owned(),
        scopes: Scopes::from_iter(["wallet:spend", "apps.*"]),
        shown: "bw_live_abcd".to_owned(),
        hash: read(json!(vec![6; 32])),
        maker: Maker::Accounts,
        made_with: Some(id(4)),
        created_at: Timestamp(1_767_225_600_000),
        expires_at: Some(Timestamp(1_767_225_660_000)),
        made_under: MadeUnder { user_epoch: 3, membership: 300 },
    };
    let created =
        |key| ApiKeyEvent::Created(api_key::KeyCreated { user: USER, tenant: TENANT, key });
    let first = ApiKey { made_under: MadeUnder::default(), ..key.clone() };
    let samples = vec![
        created(key),
        ApiKeyEvent::Deleted(api_key::KeyEnded { key: id(4) }),
        ApiKeyEvent::Expired(api_key::KeyEnded { key: id(5) }),
    ];
    check_with_past::<ApiKeys>(samples, vec![(1, created(first))]);
    // Who made a key is stored by the order.
    let bytes = |maker: Maker| codec::encode(&maker).unwrap();
    let makers = [Maker::Platform, Maker::Agents, Maker::Accounts];
    assert_eq!(makers.map(bytes), [[0], [1], [2]]);
}

#[test]
fn mails() {
    let queued = |letter| MailEvent::Queued(mail::Queued { id: 7, to: personal(4), letter });
    let reason = "nothing was heard within 90 s".to_owned();
    let tenant_name = "Acme".to_owned();
    let invitation = Letter::Invitation { invitation: 9, tenant_name, role: "admin".to_owned() };
    check::<Mail>(vec![
        queued(invitation),
        MailEvent::Deferred(mail::Deferred { reason: reason.clone(), until: Timestamp(5) }),
        MailEvent::Retried(supervision::Retried {}),
        MailEvent::Sent(mail::Sent {}),
        MailEvent::GivenUp(mail::GivenUp { reason }),
    ]);
    // Letters are stored by their order.
    let letters = [
        Letter::VerifyEmail { link: 0 },
        Letter::ResetPassword { link: 0 },
        Letter::AlreadyRegistered {},
        Letter::PasswordChanged {},
        Letter::FactorRemovalAsked {},
        Letter::SecondFactorsRemoved {},
        Letter::AccountMade { link: 0, tenant_name: String::new(), role: String::new() },
        Letter::Notice { app: String::new(), words: personal(5) },
    ];
    assert_eq!(letters.map(|letter| codec::encode(&letter).unwrap()[0]), [0, 1, 2, 3, 5, 6, 7, 8]);
}

#[test]
fn mail_links() {
    let until = Timestamp(1_767_225_660_000);
    let (purpose, user, home) = (Purpose::ResetPassword, USER, TENANT);
    let password = Some("$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA".to_owned().into());
    let refusal = Some(supervision::Refusal::not_found("user"));
    let issued =
        mail_link::Issued { purpose, user, home, sessions_from: 2, password_changes: 3, until };
    check::<MailLink>(vec![
        MailLinkEvent::Issued(issued),
        MailLinkEvent::Taken(mail_link::Taken { by: 8, password }),
        MailLinkEvent::Retried(supervision::Retried {}),
        MailLinkEvent::Done(mail_link::Done { refusal }),
    ]);
    let purposes = [Purpose::VerifyEmail, Purpose::ResetPassword, Purpose::Invitation];
    assert_eq!(purposes.map(|purpose| codec::encode(&purpose).unwrap()), [[0], [1], [2]]);
}

#[test]
fn second_factors() {
    let (app, passkey, until) = (FactorId(7), FactorId(8), Timestamp(1_767_225_660_000));
    let hash: RecoveryHash = read(json!(vec![6; 32]));
    let label = Some(personal(2));
    let used = |used, login| SecondFactorEvent::FactorUsed(factor::FactorUsed { used, login });
    let key = PublicKey::Es256(vec![4; 65]);
    let credential = personal(3);
    let secret = personal(1);
    let added = factor::PasskeyAdded { id: passkey, credential, key, counter: 1 };
    let begun = factor::TotpBegun { id: app, secret, label: label.clone(), until };
    let asked = factor::PasskeyBegun { id: passkey, challenge: [5; 32], label, until };
    let hashes = vec![hash, hash];
    let login = Some(factor::CompletedLogin { nonce: USER.0, until });
    check::<factor::SecondFactors>(vec![
        SecondFactorEvent::TotpBegun(begun),
        SecondFactorEvent::TotpConfirmed(factor::TotpConfirmed { id: app, step: 58_907_522 }),
        SecondFactorEvent::PasskeyBegun(asked),
        SecondFactorEvent::PasskeyAdded(added),
        SecondFactorEvent::RecoveryCodesSet(factor::RecoveryCodesSet { hashes }),
        used(factor::Used::Code { id: app, step: 58_907_523 }, login),
        SecondFactorEvent::Removed(factor::Removed { id: app }),
        SecondFactorEvent::RemovalAsked(factor::RemovalAsked {
            asked: factor::Asked { tenant: TENANT, epoch: 3, password_changes: 1, until },
        }),
        SecondFactorEvent::Cleared(factor::Cleared {
            id: 7,
            why: factor::Why::Removed { reason: "lost".to_owned(), sessions_from: 2 },
        }),
        SecondFactorEvent::ClearingRetried(factor::ClearingRetried {}),
        SecondFactorEvent::ClearingSettled(factor::ClearingSettled {}),
    ]);
    assert_eq!(codec::encode(&factor::Why::Reclaimed).unwrap(), [0]);
    // Kinds of use and of keys are stored by their order.
    let kinds = [
        factor::Used::Code { id: app, step: 1 },
        factor::Used::Recovery { hash },
        factor::Used::Passkey { id: passkey, counter: 1 },
    ];
    assert_eq!(kinds.map(|kind| used(kind, None).encode().unwrap()[0]), [0, 1, 2]);
    let keys = [
        PublicKey::Es256(Vec::new()),
        PublicKey::EdDsa(Vec::new()),
        PublicKey::Rs256 { n: Vec::new(), e: Vec::new() },
    ];
    assert_eq!(keys.map(|key| codec::encode(&key).unwrap()[0]), [0, 1, 2]);
}

#[test]
fn device_logins() {
    let begun = device_login::Begun {
        id: 7,
        code: device_login::Digest([1; 32]),
        challenge: device_login::Digest([2; 32]),
        user_code_tag: "device_user_code/0011".to_owned(),
        until: Timestamp(1_767_225_660_000),
    };
    let approved =
        device_login::Approved { user: USER, tenant: TENANT, session: SESSION, ends_session: true };
    check::<DeviceLogin>(vec![
        DeviceLoginEvent::Begun(begun),
        DeviceLoginEvent::Denied(device_login::Denied { user: USER }),
        DeviceLoginEvent::Expired(device_login::Expired {}),
        DeviceLoginEvent::Redeemed(device_login::Redeemed {}),
        DeviceLoginEvent::Approved(approved),
    ]);
}

#[test]
fn settings() {
    let settings = JsonBytes::from(json!({"confirmation_enabled": true}));
    check::<UserSettings>(vec![UserSettingsEvent::Changed(Changed { settings })]);
}

#[test]
fn sign_in_policies() {
    let set = PolicySet { require_second_factor: true };
    check::<SignInPolicy>(vec![SignInPolicyEvent::PolicySet(set)]);
}

#[test]
fn signing_keys() {
    let key = |algorithm: &str, byte: u8| {
        json!({
            "algorithm": algorithm, "created_at_ms": 1_767_225_600_000_u64,
            "private_key": [byte, byte, byte],
        })
    };
    let set = json!({
        "next": key("RS256", 1), "current": key("EdDSA", 2),
        "previous": [{"key": key("RS256", 3), "kept_until_ms": 1_767_312_060_000_u64}],
    });
    check::<SigningKeyRing>(vec![
        SigningEvent::Installed(signing::Installed { set: read(set.clone()) }),
        SigningEvent::Rotated(signing::Rotated { set: read(set) }),
    ]);
}
