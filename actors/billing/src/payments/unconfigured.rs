//! The provider of a server that takes no payments: everything is refused, and says why.
//!
//! It is what a server has that was told of no provider. Were there another one in its place,
//! whoever found a server that nobody has set up could make credits of nothing.

use types::TenantId;

use super::provider::{
    Answer, ClientSecret, Intent, Method, News, NewsError, Order, PaymentProvider, Placed,
    ProviderError,
};

/// No provider.
pub struct Unconfigured;

fn refused<T: Send + 'static>() -> Answer<T> {
    Box::pin(std::future::ready(Err(ProviderError::Unconfigured)))
}

impl PaymentProvider for Unconfigured {
    fn name(&self) -> &'static str {
        "none"
    }

    fn publishable_key(&self) -> &str {
        ""
    }

    fn is_real(&self) -> bool {
        false
    }

    fn check(&self) -> Result<(), ProviderError> {
        Err(ProviderError::Unconfigured)
    }

    fn customer(&self, _: TenantId) -> Answer<String> {
        refused()
    }

    fn set_up(&self, _: String, _: u128) -> Answer<ClientSecret> {
        refused()
    }

    fn methods(&self, _: String) -> Answer<Vec<Method>> {
        // Whoever asks what is kept here is told the truth.
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn detach(&self, _: String, _: String) -> Answer<()> {
        refused()
    }

    fn set_default(&self, _: String, _: String) -> Answer<()> {
        refused()
    }

    fn place(&self, _: Order) -> Answer<Placed> {
        refused()
    }

    fn fetch(&self, _: String) -> Answer<Intent> {
        refused()
    }

    fn refund(&self, _: String, _: i64, _: u128) -> Answer<()> {
        refused()
    }

    fn portal(&self, _: String, _: String) -> Answer<String> {
        refused()
    }

    fn read_news(&self, _: &[u8], _: &str, _: i64) -> Result<News, NewsError> {
        Err(NewsError::NotSetUp)
    }
}
