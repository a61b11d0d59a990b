//! Making, changing and listing agents: what the gateway calls. A port.
//!
//! Invariants
//! - Every method here that ends tokens raises the agent's epoch before it answers.
//! - No agent is given more than the credential that asks for it covers.
//! - An agent of another tenant is answered as one that does not exist.
//!
//! Deliberate limits
//! - A list looks at the newest [`LISTED_MAX`] agents of a tenant, revoked ones among them.
//! - When an agent was seen is an observation: in memory, written once a minute.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use billing::plan_limits::{Meter, Plans};
use identity::Identity;
use identity::claim::{Claim, ClaimTarget, Confirm, Reserve};
use identity::token_cache::{CACHE_CAPACITY, OwnerClass, OwnerKey, TokenCache};
use identity::user::MadeUnder;
use parking_lot::Mutex;
use persistence::{RowRange, codec};
use serde::{Deserialize, Serialize};
use supervision::{
    Address, Class, Command, Entity as _, Handle, Origin, Refusal, RowDraft, System, Timestamp,
};
use types::{
    AgentId, Caller, CallerKind, Page, Scopes, TenantId, UserId, check_lines, home_of,
    owner_of_tenant,
};

use crate::agent::{
    AGENTS_FAMILY, Agent, AgentView, ChangeAgent, Changed, CreateAgent, Details, DetailsPatch,
    Profile, SEEN_FAMILY, SetStatus, Status, no_agent, row_key,
};
use crate::check::{LiveSecret, LiveToken};
use crate::issuing::IssuingKeys;
use crate::revocations::Revocations;
use crate::roster::{ReserveSeat, Roster};
use crate::secret::AgentSecret;
use crate::token::{SCOPE_BYTES_MAX, SCOPES_MAX, Seed, VerifyingKey};
use crate::{internal, unix_ms};

/// How many of a tenant's agents a list looks at.
pub const LISTED_MAX: usize = 10_000;
/// The longest name, in characters.
pub const NAME_CHARS_MAX: usize = 256;
/// The longest description, in characters.
pub const DESCRIPTION_CHARS_MAX: usize = 2_000;
/// The longest of the other texts, in characters.
pub const TEXT_CHARS_MAX: usize = 255;

/// What an installation may choose.
#[derive(Clone, Debug)]
pub struct AgentSettings {
    /// How this server is called as the target of a token.
    pub service: String,
    /// How long an issuing key signs (ms).
    pub key_period_ms: u64,
    /// How many verified tokens are held.
    pub cache_capacity: usize,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            service: "bailiwick".to_owned(),
            key_period_ms: identity::service::KEY_PERIOD_MS,
            cache_capacity: CACHE_CAPACITY,
        }
    }
}

/// When an agent was seen, here.
#[derive(Debug)]
pub(crate) struct Seen {
    tenant: TenantId,
    used_ms: AtomicI64,
    heartbeat_ms: AtomicI64,
}

impl Seen {
    fn note(of: &AtomicI64, now: Timestamp) {
        // Reading first: within one millisecond all but one use leave the line shared.
        if of.load(Ordering::Relaxed) < now.0 {
            of.fetch_max(now.0, Ordering::Relaxed);
        }
    }

    pub(crate) fn used(&self, now: Timestamp) {
        Self::note(&self.used_ms, now);
    }

    fn times(&self) -> SeenRow {
        let time = |of: &AtomicI64| {
            let ms = of.load(Ordering::Relaxed);
            (ms != i64::MIN).then_some(Timestamp(ms))
        };
        SeenRow { used_at: time(&self.used_ms), heartbeat_at: time(&self.heartbeat_ms) }
    }
}

/// When an agent was seen: a row of [`SEEN_FAMILY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRow {
    /// When a token or the secret of it was used last.
    pub used_at: Option<Timestamp>,
    /// When it said last that it is there.
    pub heartbeat_at: Option<Timestamp>,
}

impl SeenRow {
    fn latest(self, other: Self) -> Self {
        Self {
            used_at: self.used_at.max(other.used_at),
            heartbeat_at: self.heartbeat_at.max(other.heartbeat_at),
        }
    }
}

/// See the module's head.
pub struct Agents {
    pub(crate) settings: AgentSettings,
    pub(crate) identity: Arc<Identity>,
    pub(crate) keys: Arc<IssuingKeys>,
    pub(crate) revoked: Arc<Revocations>,
    pub(crate) tokens: TokenCache<LiveToken>,
    pub(crate) secrets: TokenCache<LiveSecret>,
    seen: Mutex<HashMap<AgentId, Arc<Seen>>>,
    system: OnceLock<Weak<System>>,
}

/// An agent with what was observed of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenAgent {
    /// The agent.
    pub agent: AgentView,
    /// When it was seen, to the minute.
    pub seen: SeenRow,
}

/// Which agents of a tenant.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    /// Only those that stand so.
    pub status: Option<Status>,
    /// Only those of whom this is said.
    pub owner: Option<String>,
}

/// An agent that somebody wants.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// What is said of it.
    pub details: Details,
    /// What its tokens may cover at most; `None` is all that the caller's credential covers.
    pub scopes: Option<Scopes>,
    /// Its own Ed25519 key; `None` makes one up.
    pub public_key: Option<[u8; 32]>,
}

/// An agent that is about to be made: what is shown once, and what makes it.
#[derive(Debug)]
pub struct AgentDraft {
    /// What it asks for tokens with.
    pub secret: AgentSecret,
    /// The private half of its key, when that was made up here.
    pub private_key: Option<Seed>,
    /// Where to ask.
    pub address: Address<Agent>,
    profile: Profile,
}

/// How many agents a tenant's plan allows.
async fn agents_cap(system: &System, tenant: TenantId, origin: &Origin) -> Result<usize, Refusal> {
    let limit = Plans(system).limit(tenant, Meter::Agents, origin.clone()).await?;
    Ok(limit.limit.map_or(usize::MAX, |seats| usize::try_from(seats).unwrap_or_default()))
}

fn text(field: &str, text: &str, chars: std::ops::RangeInclusive<usize>) -> Result<(), Refusal> {
    check_lines(text).map_err(|error| Refusal::invalid(field, error.to_string()))?;
    let fits = chars.contains(&text.trim().chars().count());
    let message = || format!("must have {} to {} characters", chars.start(), chars.end());
    fits.then_some(()).ok_or_else(|| Refusal::invalid(field, message()))
}

/// 422 unless all that is said fits.
fn check_details(details: &Details) -> Result<(), Refusal> {
    text("name", &details.name, 1..=NAME_CHARS_MAX)?;
    text("owner", &details.owner, 1..=TEXT_CHARS_MAX)?;
    let may = |field, value: &Option<String>, max| {
        value.as_ref().map_or(Ok(()), |value| text(field, value, 0..=max))
    };
    may("description", &details.description, DESCRIPTION_CHARS_MAX)?;
    may("model_provider", &details.model_provider, TEXT_CHARS_MAX)?;
    may("model_name", &details.model_name, TEXT_CHARS_MAX)?;
    may("framework", &details.framework, TEXT_CHARS_MAX)
}

/// 422 unless these are scopes that a token can carry.
pub(crate) fn check_scopes(field: &str, scopes: &Scopes) -> Result<(), Refusal> {
    let all = scopes.as_slice();
    let is_scope = |scope: &String| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b":._-*".contains(&byte);
        (1..=SCOPE_BYTES_MAX).contains(&scope.len()) && scope.bytes().all(fits)
    };
    let fits = (1..=SCOPES_MAX).contains(&all.len()) && all.iter().all(is_scope);
    let message = || {
        format!("must be 1 to {SCOPES_MAX} scopes such as wallet:read, of letters, digits, :._-*")
    };
    fits.then_some(()).ok_or_else(|| Refusal::invalid(field, message()))
}

/// 403 `scope_not_held` unless the caller's own credential covers all of them.
pub(crate) fn check_held(caller: &Caller, scopes: &Scopes) -> Result<(), Refusal> {
    let mut scopes = scopes.as_slice().iter();
    let Some(wider) = scopes.find(|scope| !caller.scopes.covers(scope)) else { return Ok(()) };
    let message = format!("your own credential does not cover the scope {wider}");
    Err(Refusal::new(Class::Forbidden, "scope_not_held", message))
}

fn check_key(bytes: &[u8; 32]) -> Result<(), Refusal> {
    let is_sound = VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak());
    let message = "must be an Ed25519 public key: 32 bytes as base64url";
    is_sound.then_some(()).ok_or_else(|| Refusal::invalid("public_key", message))
}

/// Whether a caller may change an agent that this user stands for: the user, and who answers for
/// the tenant, by a key of theirs too.
fn manages(caller: &Caller, user: UserId) -> bool {
    let is_own = caller.user.is_some_and(|user| user.direct_tenant() == caller.tenant);
    caller.user == Some(user) || is_own || ["owner", "admin"].contains(&caller.role.as_str())
}

impl Agents {
    /// Without a system: register it ([`crate::register`]), then [`Agents::start`].
    pub fn new(settings: AgentSettings, identity: Arc<Identity>) -> Arc<Self> {
        let (capacity, epochs) = (settings.cache_capacity, identity.epochs().clone());
        Arc::new(Self {
            keys: Arc::default(),
            revoked: Arc::default(),
            tokens: TokenCache::new(capacity, epochs.clone()),
            secrets: TokenCache::new(capacity, epochs),
            seen: Mutex::default(),
            system: OnceLock::new(),
            settings,
            identity,
        })
    }

    /// Loads or makes the issuing keys, and reads what is revoked. Once, before the first request.
    pub async fn start(&self, system: &Arc<System>) -> Result<(), Refusal> {
        let _ = self.system.set(Arc::downgrade(system));
        self.keys.start(system).await?;
        let revoked = self.revoked.load(system);
        tracing::debug!(revoked, "revoked tokens are known again");
        Ok(())
    }

    /// The keys that tokens are signed with.
    pub fn issuing_keys(&self) -> &Arc<IssuingKeys> {
        &self.keys
    }

    /// What is revoked.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revoked
    }

    /// How this server is called as the target of a token.
    pub fn service_name(&self) -> &str {
        &self.settings.service
    }

    pub(crate) fn system(&self) -> Result<Arc<System>, Refusal> {
        self.system.get().and_then(Weak::upgrade).ok_or_else(Refusal::busy)
    }

    /// Makes up an agent. Nothing is checked or kept yet: [`Agents::prepare`] does both.
    pub fn draft(&self, caller: &Caller, new: NewAgent) -> Result<AgentDraft, Refusal> {
        let nobody = || Refusal::forbidden("this credential belongs to no user");
        let (user, tenant) = (caller.user.ok_or_else(nobody)?, caller.tenant);
        let system = self.system()?;
        let NewAgent { details, scopes, public_key } = new;
        let randomless = || internal("no random numbers");
        let secret = AgentSecret::generate().ok_or_else(randomless)?;
        let private_key = match public_key {
            Some(_) => None,
            None => Some(Seed::generate().ok_or_else(randomless)?),
        };
        let own = || private_key.as_ref().map(Seed::public_key).unwrap_or_default();
        let profile = Profile {
            id: AgentId(system.new_id()),
            tenant,
            user,
            made_under: MadeUnder::default(),
            details,
            scopes: scopes.unwrap_or_else(|| caller.scopes.clone()),
            public_key: public_key.unwrap_or_else(own),
            secret: secret.hash(),
            created_at: Timestamp::default(),
        };
        let address = Agent::address(tenant, profile.id);
        Ok(AgentDraft { secret, private_key, address, profile })
    }

    /// Checks what is wanted, reserves a seat, claims the secret, and answers the command that
    /// makes the agent. 422 for what does not fit, 403 `scope_not_held`, 402 `plan_limit_reached`.
    pub async fn prepare(
        &self,
        caller: &Caller,
        draft: &AgentDraft,
        origin: Origin,
    ) -> Result<CreateAgent, Refusal> {
        let system = self.system()?;
        let mut profile = draft.profile.clone();
        check_details(&profile.details)?;
        check_scopes("scopes", &profile.scopes)?;
        check_key(&profile.public_key)?;
        check_held(caller, &profile.scopes)?;
        let Profile { id, tenant, user, .. } = profile;
        profile.made_under = self.made_under(user, tenant).await?;
        let seats_max = agents_cap(&system, tenant, &origin).await?;
        let rosters = system.directory::<Roster>();
        let reserve = ReserveSeat { agent: id, seats_max };
        rosters.ask(&Roster::address(tenant), reserve, origin.clone()).await?;
        let claim = profile.secret.claim(self.identity.claim_key());
        let (claims, holder) = (system.directory::<Claim>(), id.0);
        let target = ClaimTarget { user, tenant };
        claims.ask(&claim, Reserve { holder }, origin.clone()).await?;
        claims.ask(&claim, Confirm { holder, target }, origin).await?;
        Ok(CreateAgent { profile })
    }

    async fn made_under(&self, user: UserId, tenant: TenantId) -> Result<MadeUnder, Refusal> {
        let sponsor = self.identity.sponsor(user, tenant).await?;
        let gone = || Refusal::forbidden("this user is no member of the tenant any more");
        Ok(sponsor.ok_or_else(gone)?.made_under)
    }

    /// Where an agent of the caller's tenant lives. 404 for any other.
    pub fn find(&self, tenant: TenantId, agent: AgentId) -> Result<Address<Agent>, Refusal> {
        let address = Agent::address(tenant, agent);
        let found = self.system()?.locate(Agent::KIND, address.id());
        found.filter(|place| place.home == home_of(tenant)).map(|_| address).ok_or_else(no_agent)
    }

    /// An agent of a tenant. 404.
    pub async fn get(&self, tenant: TenantId, agent: AgentId) -> Result<SeenAgent, Refusal> {
        let (system, address) = (self.system()?, self.find(tenant, agent)?);
        let origin = system.system_origin();
        let view = system.directory::<Agent>().look(&address, origin, Agent::view).await?;
        let view = view.ok_or_else(no_agent)?;
        Ok(self.with_seen(&system, view))
    }

    fn with_seen(&self, system: &System, agent: AgentView) -> SeenAgent {
        let (shard, key) = (owner_of_tenant(agent.tenant).shard(), row_key(agent.tenant, agent.id));
        let row = system.row(shard, SEEN_FAMILY, &key);
        let written = row.and_then(|row| codec::decode(&row).ok()).unwrap_or_default();
        let here = self.seen.lock().get(&agent.id).map(|seen| seen.times());
        let seen = SeenRow::latest(written, here.unwrap_or_default());
        SeenAgent { agent, seen }
    }

    /// A page of a tenant's agents, the newest first, and how many there are in all.
    pub async fn list(
        self: &Arc<Self>,
        tenant: TenantId,
        filter: AgentFilter,
        page: Page,
    ) -> Result<(Vec<SeenAgent>, usize), Refusal> {
        let (agents, system) = (Arc::clone(self), self.system()?);
        let listed = tokio::task::spawn_blocking(move || {
            let fits = |agent: &AgentView| {
                let is_owners = |owner: &String| *owner == agent.details.owner;
                filter.status.is_none_or(|status| status == agent.status)
                    && filter.owner.as_ref().is_none_or(is_owners)
            };
            let all: Vec<_> = agents_of(&system, tenant).into_iter().filter(fits).collect();
            let total = all.len();
            let with_seen = |agent| agents.with_seen(&system, agent);
            (page.of(all).into_iter().map(with_seen).collect(), total)
        });
        listed.await.map_err(|_| internal("a background thread ended"))
    }

    /// Who may change an agent, or ask for its tokens: who stands for it, and who answers for the
    /// tenant. 404, 403.
    pub async fn managed(
        &self,
        caller: &Caller,
        agent: AgentId,
    ) -> Result<Address<Agent>, Refusal> {
        let (system, address) = (self.system()?, self.find(caller.tenant, agent)?);
        let origin = system.system_origin();
        let standing = system.directory::<Agent>().look(&address, origin, Agent::standing).await?;
        let user = standing.ok_or_else(no_agent)?.user;
        let refusal = || Refusal::forbidden("another member of the tenant stands for this agent");
        // Not even by the user's role, which an agent carries: it is for people and their keys.
        let manages = caller.kind != CallerKind::Agent && manages(caller, user);
        manages.then_some(address).ok_or_else(refusal)
    }

    /// The command that changes an agent. 422 for what does not fit, 403 `scope_not_held`. With
    /// `adopts` the caller stands for it from now on.
    pub async fn prepare_change(
        &self,
        caller: &Caller,
        details: DetailsPatch,
        scopes: Option<Scopes>,
        adopts: bool,
    ) -> Result<ChangeAgent, Refusal> {
        let sample = || "x".to_owned();
        check_details(&Details {
            name: details.name.clone().unwrap_or_else(sample),
            owner: details.owner.clone().unwrap_or_else(sample),
            description: details.description.clone().flatten(),
            model_provider: details.model_provider.clone().flatten(),
            model_name: details.model_name.clone().flatten(),
            framework: details.framework.clone().flatten(),
        })?;
        if let Some(scopes) = &scopes {
            check_scopes("scopes", scopes)?;
            check_held(caller, scopes)?;
        }
        let user = match (adopts, caller.user) {
            (true, Some(user)) => Some((user, self.made_under(user, caller.tenant).await?)),
            _ => None,
        };
        Ok(ChangeAgent { details, scopes, user })
    }

    /// Asks an agent for a change that may end its tokens, and raises the epoch.
    pub async fn change<C>(
        &self,
        address: &Address<Agent>,
        command: C,
        origin: Origin,
    ) -> Result<AgentView, Refusal>
    where
        C: Command,
        Agent: Handle<C, Reply = Changed>,
    {
        let system = self.system()?;
        let (view, epoch) = system.directory::<Agent>().ask(address, command, origin).await?;
        self.raise(view.id, epoch)?;
        Ok(view)
    }

    /// From now on no check accepts a token of this agent's from an earlier epoch.
    pub fn raise(&self, agent: AgentId, epoch: u64) -> Result<(), Refusal> {
        let now_ms = unix_ms(self.system()?.clock().now());
        let owner = OwnerKey { class: OwnerClass::Agent, id: agent.0 };
        self.identity.epochs().raise(owner, epoch, now_ms);
        Ok(())
    }

    /// What is done after an answer that was recorded: the epoch is raised to the present one.
    pub async fn settle(&self, address: &Address<Agent>) -> Result<(), Refusal> {
        let system = self.system()?;
        let of = |agent: &Agent| Some((agent.view()?.id, agent.standing()?.epoch));
        let (agents, origin) = (system.directory::<Agent>(), system.system_origin());
        match agents.look(address, origin, of).await? {
            Some((agent, epoch)) => self.raise(agent, epoch),
            None => Ok(()),
        }
    }

    /// Ends every agent that a user stands for in a tenant.
    pub(crate) async fn revoke_all_of(
        &self,
        user: UserId,
        tenant: TenantId,
        origin: &Origin,
    ) -> Result<(), Refusal> {
        let system = self.system()?;
        let reading = Arc::clone(&system);
        let all = tokio::task::spawn_blocking(move || agents_of(&reading, tenant)).await;
        let all = all.map_err(|_| internal("a background thread ended"))?;
        let is_theirs = |it: &AgentView| it.user == user && it.status != Status::Revoked;
        for agent in all.into_iter().filter(is_theirs) {
            let address = Agent::address(tenant, agent.id);
            match self.change(&address, SetStatus(Status::Revoked), origin.clone()).await {
                Err(refusal) if refusal.is_erased() => {}
                done => drop(done?),
            }
        }
        Ok(())
    }

    /// Notes that an agent says that it is there.
    pub fn heartbeat(&self, tenant: TenantId, agent: AgentId) -> Result<Timestamp, Refusal> {
        let now = self.system()?.clock().now();
        Seen::note(&self.seen_of(tenant, agent).heartbeat_ms, now);
        Ok(now)
    }

    pub(crate) fn seen_of(&self, tenant: TenantId, agent: AgentId) -> Arc<Seen> {
        let never = || AtomicI64::new(i64::MIN);
        let unseen = || Arc::new(Seen { tenant, used_ms: never(), heartbeat_ms: never() });
        self.seen.lock().entry(agent).or_insert_with(unseen).clone()
    }

    /// Writes down when agents were seen. Once a minute, and at the end.
    pub fn write_seen(&self) -> Result<(), Refusal> {
        let (system, mut seen) = (self.system()?, Vec::new());
        self.seen.lock().retain(|agent, it| {
            seen.push((*agent, it.tenant, it.times()));
            // The caches have let go of it: what is written is all that is left to know.
            Arc::strong_count(it) > 1
        });
        for (agent, tenant, times) in seen {
            let (place, key) = (Agent::address(tenant, agent), row_key(tenant, agent));
            let row = system.row(place.place().shard(), SEEN_FAMILY, &key);
            let written = row.and_then(|row| codec::decode(&row).ok()).unwrap_or_default();
            let latest = SeenRow::latest(written, times);
            if latest != written {
                let value = codec::encode(&latest).ok();
                let row = RowDraft { family: SEEN_FAMILY, key, value };
                system.note_rows(place.place(), &[row]);
            }
        }
        Ok(())
    }

    /// What is due once in a while, a minute or an hour: forgets what is over, writes down who was
    /// seen, and rotates the issuing key when it has signed for long enough.
    pub async fn housekeep(&self) -> Result<(), Refusal> {
        let system = self.system()?;
        let now = system.clock().now();
        self.revoked.prune(now);
        self.tokens.forget_unused(unix_ms(now));
        self.secrets.forget_unused(unix_ms(now));
        self.write_seen()?;
        let since_ms = self.keys.get()?.since_ms;
        if unix_ms(now) < since_ms.saturating_add(self.settings.key_period_ms) {
            return Ok(());
        }
        self.keys.rotate(&system).await
    }
}

/// A tenant's newest agents. Blocks.
fn agents_of(system: &System, tenant: TenantId) -> Vec<AgentView> {
    let rows = system.rows(&RowRange {
        shard: owner_of_tenant(tenant).shard(),
        family: AGENTS_FAMILY,
        prefix: tenant.0.to_be_bytes().to_vec(),
        after: None,
        newest_first: true,
        limit: LISTED_MAX,
    });
    rows.iter().filter_map(|(_, value)| codec::decode(value).ok()).collect()
}

impl fmt::Debug for Agents {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Agents").field("settings", &self.settings).finish_non_exhaustive()
    }
}
