//! The money that a run may cost, held while it runs.
//!
//! Invariant: whoever has it when the run is over ends it: the run itself, by dropping it, until
//! the session has taken the run in or was told that it is started. Its time ends it in any case.

use std::sync::Arc;
use std::time::Duration;

use billing::wallet::{PlaceHold, Release, Wallet, wallet_address};
use confirmations::Held;
use supervision::{Class, Origin, Refusal, System};
use types::{Amount, AppId, CallId, HoldId, TenantId};

use crate::allowance;
use crate::runtime::{Quote, Request};

/// How long the money for a run is held at most, in milliseconds.
pub(crate) const HOLD_TTL_MS: i64 = 120_000;
/// How long for a run that may act outside: longer than it takes with all that it waits for (see
/// [`crate::session::STARTED_MS_MAX`]).
pub(crate) const HOLD_OUTSIDE_TTL_MS: i64 = 240_000;

/// How often a wallet without room is asked to release a hold, and the pause between.
const RELEASE_ATTEMPTS_MAX: u32 = 5;
const RELEASE_PAUSE: Duration = Duration::from_millis(50);

/// Money that is held for a run: released when it is dropped before the run is recorded.
pub(crate) struct Hold {
    system: Arc<System>,
    tenant: TenantId,
    origin: Origin,
    pub(crate) id: Option<HoldId>,
    /// What was held when it was placed, in credits.
    pub(crate) amount: i64,
    call: Option<CallId>,
    /// Whether nobody else will end it.
    pub(crate) own: bool,
    /// Whether the session will, whatever becomes of the run.
    is_given: bool,
    /// Whether it was held before, for a card.
    is_of_card: bool,
    /// Whether it ends only when that is said: a task that is let go of is taken up again.
    is_kept: bool,
}

impl Hold {
    /// Nothing.
    pub(crate) fn none(system: &Arc<System>, tenant: TenantId, origin: Origin) -> Self {
        Self {
            system: Arc::clone(system),
            tenant,
            origin,
            id: None,
            amount: 0,
            call: None,
            own: false,
            is_given: false,
            is_of_card: false,
            is_kept: false,
        }
    }

    /// Holds what a quote says, if the wallet has it, no limit is in the way and the user's role
    /// allows so many actions.
    pub(crate) async fn place(
        system: &Arc<System>,
        request: &Request,
        call: CallId,
        quote: &Quote,
        (app, ttl_ms): (&AppId, i64),
    ) -> Result<Self, Refusal> {
        let (tenant, origin) = (request.tenant, request.origin.clone());
        let mut hold = Self::none(system, tenant, origin);
        hold.call = Some(call);
        let actions = allowance::actions(system, request, quote.calls.len()).await?;
        if quote.total == 0 {
            allowance::count(system, request, actions).await?;
            return Ok(hold);
        }
        let amount = Amount::new(quote.total)
            .map_err(|_| Refusal::invalid("calls", "they cost more than one request may"))?;
        let reason = match quote.calls.as_slice() {
            [_] => format!("{app}: a call"),
            calls => format!("{app}: {} calls", calls.len()),
        };
        let id = HoldId(system.new_id());
        let (call, spender) = (Some(call), allowance::spender(request, app));
        let command = PlaceHold { id, amount, ttl_ms, reason, call, spender, actions };
        // From here on: a caller who goes away meanwhile leaves no hold behind.
        (hold.id, hold.own, hold.amount) = (Some(id), true, quote.total);
        let wallets = system.directory::<Wallet>();
        let placed = wallets.ask(&wallet_address(tenant), command, hold.origin.clone()).await;
        match placed {
            Ok(_) => Ok(hold),
            Err(refusal) => {
                hold.own = refusal.class == Class::InDoubt;
                Err(refusal)
            }
        }
    }
}

impl Hold {
    /// What is held for a card, which ends it unless the session does.
    pub(crate) fn of_card(
        system: &Arc<System>,
        tenant: TenantId,
        origin: Origin,
        held: Option<Held>,
    ) -> Self {
        let (id, call) = (held.map(|held| held.hold), held.map(|held| held.call));
        let mut hold = Self::none(system, tenant, origin);
        (hold.id, hold.call, hold.is_given, hold.is_of_card) = (id, call, true, true);
        hold
    }

    /// Ends what was held for a card whose call goes on as a task, which holds its own.
    pub(crate) async fn end_of_card(system: &Arc<System>, request: &Request, held: Option<Held>) {
        let Some(held) = held else { return };
        let mut hold = Self::none(system, request.tenant, request.origin.clone());
        (hold.id, hold.call, hold.own) = (Some(held.hold), Some(held.call), true);
        hold.release().await;
    }

    /// What was held before for a task that goes on now. Dropped, it stays as it is.
    pub(crate) fn resumed(
        system: &Arc<System>,
        (tenant, origin): (TenantId, Origin),
        call: CallId,
        id: Option<HoldId>,
    ) -> Self {
        let mut hold = Self::none(system, tenant, origin);
        (hold.id, hold.call, hold.own, hold.is_kept) = (id, Some(call), true, true);
        hold
    }

    /// Releases it now, unless somebody else ends it. What the wallet has no room for is left to
    /// the hold's time.
    pub(crate) async fn release(&mut self) {
        let (Some(hold), true) = (self.id, self.own && !self.is_given) else { return };
        let wallets = self.system.directory::<Wallet>();
        for _ in 0..RELEASE_ATTEMPTS_MAX {
            let release = Release { hold, call: self.call };
            let address = wallet_address(self.tenant);
            let released = wallets.ask(&address, release, self.origin.clone()).await;
            if !released.is_err_and(|refusal| refusal.class.may_pass()) {
                self.own = false;
                return;
            }
            tokio::time::sleep(RELEASE_PAUSE).await;
        }
    }

    /// From here on the session ends it.
    pub(crate) fn give(&mut self) {
        self.is_given = true;
    }

    /// The session did not take it.
    pub(crate) fn take_back(&mut self) {
        self.is_given = self.is_of_card;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let (Some(hold), true) = (self.id, self.own && !self.is_given && !self.is_kept) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (system, tenant, origin) = (self.system.clone(), self.tenant, self.origin.clone());
        let call = self.call;
        // If this is refused, the hold's time ends it.
        runtime.spawn(async move {
            let wallets = system.directory::<Wallet>();
            let _ = wallets.ask(&wallet_address(tenant), Release { hold, call }, origin).await;
        });
    }
}
