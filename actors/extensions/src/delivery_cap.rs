//! How much the deliveries of an app's webhooks may cost in a day: a spending limit of the wallet
//! that pays, `webhook:APP/day`, which the first delivery sets to the operator's default. Whoever
//! pays sees it, and sets another amount, among their limits; removed, it is set again.
//!
//! What a delivery calls in turn counts for the app that is called: each has such a limit of its
//! own in that wallet.
//!
//! Deliberate limits: another default is one for wallets that have no such limit yet. Calls of a
//! service that names no user count for it, too, once it is there.

use std::sync::Arc;

use billing::wallet::{EnsureLimit, SetLimit, Subject, Wallet, Window, wallet_address};
use supervision::{Refusal, System};
use types::{AppId, home_of};

use crate::runtime::{Extensions, Quote, Request};

/// What the deliveries of one app may cost in a day, in credits, unless somebody says otherwise.
pub const DELIVERY_CREDITS_A_DAY: i64 = 10_000;

impl Extensions {
    /// Sees to it that what a delivery costs is limited. 409 `too_many_limits` where there is no
    /// room for one more.
    pub(crate) async fn cap_delivery(
        &self,
        system: &Arc<System>,
        request: &Request,
        (app, quote): (&AppId, &Quote),
    ) -> Result<(), Refusal> {
        let (amount, window) = (self.settings().delivery_credits_a_day, Window::Day);
        if quote.total == 0 || amount == 0 {
            return Ok(());
        }
        let (subject, now) =
            (Subject::Webhook(app.clone()), system.now_in(home_of(request.tenant)));
        let (wallets, address) = (system.directory::<Wallet>(), wallet_address(request.tenant));
        let of = subject.clone();
        let has_one = move |wallet: &Wallet| wallet.has_limit(&of, window, now);
        if wallets.look(&address, request.origin.clone(), has_one).await? {
            return Ok(());
        }
        let ensure = EnsureLimit(SetLimit { subject, window, amount });
        wallets.ask(&address, ensure, request.origin.clone()).await.map(drop)
    }
}
