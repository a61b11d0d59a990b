//! What is asked of a wallet for a request: who spends, on which app, and how many actions that is,
//! of those that the user's role allows in a month. The wallet decides, in one turn.

use std::sync::Arc;

use billing::wallet::{Actions, CountActions, Spender, Wallet, wallet_address};
use identity::tenant::Tenant;
use supervision::{Class, Refusal, System};
use types::AppId;

use crate::runtime::{Quote, Request};

/// Who spends: the caller, whoever in turn calls for it, on the app that is called.
pub(crate) fn spender(request: &Request, app: &AppId) -> Spender {
    Spender { user: request.user, ..Spender::of(&request.caller) }.on(app.clone())
}

/// The actions that so many calls are, and what the role of the user allows.
pub(crate) async fn actions(
    system: &System,
    request: &Request,
    calls: usize,
) -> Result<Actions, Refusal> {
    let count = u32::try_from(calls).unwrap_or(u32::MAX);
    let Some(user) = request.user else { return Ok(Actions { count, month_max: None }) };
    let (tenants, address) = (system.directory::<Tenant>(), Tenant::address(request.tenant));
    let look = move |tenant: &Tenant| tenant.monthly_actions_max(user);
    let month_max = tenants.look(&address, request.origin.clone(), look).await?;
    Ok(Actions { count, month_max })
}

/// Counts actions that cost nothing, where a role limits them.
pub(crate) async fn count(
    system: &System,
    request: &Request,
    actions: Actions,
) -> Result<(), Refusal> {
    let (Some(user), Some(_)) = (request.user, actions.month_max) else { return Ok(()) };
    let (wallets, address) = (system.directory::<Wallet>(), wallet_address(request.tenant));
    wallets.ask(&address, CountActions { user, actions }, request.origin.clone()).await
}

/// Names the limit that a quote says would be hit now; `None` for none.
pub(crate) async fn limit_hit(
    system: &Arc<System>,
    request: &Request,
    app: &AppId,
    quote: &Quote,
) -> Result<Option<String>, Refusal> {
    let actions = actions(system, request, quote.calls.len()).await?;
    let (spender, total) = (spender(request, app), quote.total);
    let now = system.now_in(types::home_of(request.tenant));
    let (wallets, address) = (system.directory::<Wallet>(), wallet_address(request.tenant));
    let look = move |wallet: &Wallet| wallet.check(&spender, (total, actions), now);
    let checked = wallets.look(&address, request.origin.clone(), look).await?;
    Ok(checked.err().map(|refusal| name_of(&refusal)))
}

/// How a refusal names the limit: by its facts, or by its code where the limit is no money.
fn name_of(refusal: &Refusal) -> String {
    let facts = refusal.facts.as_deref().filter(|_| refusal.class == Class::Payment);
    let facts = facts.and_then(|facts| serde_json::from_str::<serde_json::Value>(facts).ok());
    let named = facts.as_ref().and_then(|facts| facts["limit"].as_str());
    named.unwrap_or(&refusal.code).to_owned()
}
