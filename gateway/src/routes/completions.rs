//! `/v1/internal/ai/complete`: prompts of apps' runtimes, completed by the server's model.

use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use extensions::completion::{Completion, Prompt, Said, TOKENS_MAX};
use keeping::completion::{AiCompletion, AskModel, ModelAsked, NoteAnswer, NoteFailure};
use serde::{Deserialize, Serialize};
use supervision::Refusal;
use types::TenantId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::standing::{Named, Standing, app_named, standing};
use crate::app::App;
use crate::authenticate::{Entered, Service};
use crate::extract::JsonBody;
use crate::once::{self, Key, Once};
use crate::openapi::tag;
use crate::problem::Problem;

/// Bytes of a prompt and all that was said before it.
const PROMPT_BYTES_MAX: usize = 512 * 1024;
/// Messages before a prompt.
const MESSAGES_MAX: usize = 200;
/// Bytes of a model's name.
const MODEL_BYTES_MAX: usize = 128;
/// The highest temperature.
const TEMPERATURE_MAX: f64 = 2.0;
/// Who may have said something.
const ROLES: [&str; 3] = ["system", "user", "assistant"];
const SYSTEM: &str = "system";

pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(complete))
}

/// Something that was said before.
#[derive(Deserialize, ToSchema)]
struct PromptMessage {
    /// `system`, `user` or `assistant`
    role: String,
    content: String,
}

/// A prompt.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"prompt": "Sum it up in a line", "extension_id": "shelf",
    "max_tokens": 200}))]
struct AICompleteRequest {
    prompt: String,
    /// The server's own model when left out
    #[serde(default)]
    model: Option<String>,
    /// The app in `X-Extension-ID` when empty
    #[serde(default)]
    extension_id: String,
    /// 1 to 32,768, default 2,048
    #[serde(default)]
    max_tokens: Option<u64>,
    /// 0 to 2, default 0.7
    #[serde(default)]
    temperature: Option<f64>,
    /// What the model is told beforehand
    #[serde(default)]
    system: String,
    /// What was said before the prompt, the oldest first
    #[serde(default)]
    messages: Option<Vec<PromptMessage>>,
}

/// A completion.
#[derive(Serialize, ToSchema)]
struct AICompleteResponse {
    text: String,
    /// Read and written, as the model's endpoint counts them
    tokens_used: u64,
    model: String,
}

impl AICompleteRequest {
    fn prompt(self) -> Result<Prompt, Refusal> {
        let Self { prompt, model, max_tokens, temperature, system, messages, .. } = self;
        let messages = messages.unwrap_or_default();
        let told = (!system.is_empty()).then(|| Said { role: SYSTEM.to_owned(), content: system });
        if messages.len() > MESSAGES_MAX {
            let message = format!("at most {MESSAGES_MAX} messages");
            return Err(Refusal::invalid("messages", message));
        }
        if messages.iter().any(|message| !ROLES.contains(&message.role.as_str())) {
            return Err(Refusal::invalid("messages", "a role is system, user or assistant"));
        }
        let said =
            messages.into_iter().map(|PromptMessage { role, content }| Said { role, content });
        let before: Vec<Said> = told.into_iter().chain(said).collect();
        let bytes = prompt.len() + before.iter().map(|said| said.content.len()).sum::<usize>();
        if prompt.is_empty() || bytes > PROMPT_BYTES_MAX {
            let message = format!("1 to {PROMPT_BYTES_MAX} bytes with all that was said before");
            return Err(Refusal::invalid("prompt", message));
        }
        let model = model.filter(|model| !model.is_empty());
        if model.as_ref().is_some_and(|model| model.len() > MODEL_BYTES_MAX) {
            return Err(Refusal::invalid("model", format!("at most {MODEL_BYTES_MAX} bytes")));
        }
        let tokens = max_tokens.unwrap_or(2_048);
        if !(1..=TOKENS_MAX).contains(&tokens) {
            return Err(Refusal::invalid("max_tokens", format!("from 1 to {TOKENS_MAX}")));
        }
        let temperature = temperature.unwrap_or(0.7);
        if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
            return Err(Refusal::invalid("temperature", format!("from 0 to {TEMPERATURE_MAX}")));
        }
        let (temperature, tokens_max) = (Some(temperature), Some(tokens));
        Ok(Prompt { before, prompt, model, temperature, tokens_max })
    }
}

/// A service that names no tenant asks for the app's own.
async fn of_app(app: &App, entered: Entered, extension_id: &str) -> Result<Standing, Refusal> {
    let mut named = Named { place: "body", extension_id, ..Named::default() };
    let mut home = String::new();
    if entered.caller.tenant == TenantId::SYSTEM
        && let Some(id) = app_named(&entered, &named)?
    {
        let origin = app.origin(&entered.caller, entered.request);
        home = app.extensions.apps().find(&app.system, &id, &origin).await?.tenant.to_string();
    }
    named.tenant_id = &home;
    let of = standing(app, entered, named).await?;
    of.app()?;
    Ok(of)
}

/// Have a prompt completed by the server's model
///
/// That it was, and the tokens used, are recorded in the tenant's chain, not what was asked and
/// answered; nothing is charged. 503 `ai_not_configured` without a model, `ai_busy` when too many
/// are asked for, and other codes when the model's endpoint fails.
#[utoipa::path(post, path = "/v1/internal/ai/complete", tag = tag::GATEWAY,
    security(("service_token" = [])), request_body = AICompleteRequest,
    responses((status = 200, body = AICompleteResponse), (status = 401), (status = 403),
        (status = 404), (status = 409), (status = 422), (status = 503)))]
async fn complete(
    State(app): State<App>,
    Service(entered): Service,
    key: Key,
    body: JsonBody<AICompleteRequest>,
) -> Result<Response<Body>, Problem> {
    let of = of_app(&app, entered, &body.value.extension_id).await?;
    let prompt = body.value.prompt()?;
    let (id, origin) = (of.app()?.clone(), of.origin(&app));
    let key = of.key(&key, "ai complete", &body.bytes);
    let number = once::id_for(&app, key.as_ref());
    let address = AiCompletion::address(number, of.tenant, of.user);
    let once = once::begin_as(&app, key, address.place()).await?;
    if let Once::Answered(response) = once {
        return Ok(response);
    }
    let questions = app.system.directory::<AiCompletion>();
    let asked = AskModel(ModelAsked { app: id.clone(), user: of.user });
    questions.ask(&address, asked, origin.clone()).await?;
    let completed = app.extensions.complete_for(&app.system, (&id, of.tenant), prompt).await;
    let Completion { text, model, prompt_tokens, completion_tokens } = match completed {
        Ok(completion) => completion,
        Err(refusal) => {
            let failure = NoteFailure { code: refusal.code.clone() };
            questions.ask(&address, failure, origin).await?;
            return Err(refusal.into());
        }
    };
    let answer = NoteAnswer { model: model.clone(), prompt_tokens, completion_tokens };
    let tokens_used = prompt_tokens.saturating_add(completion_tokens);
    let view = move |()| AICompleteResponse { text, tokens_used, model };
    once.conclude(&app, &address, answer, origin, (StatusCode::OK, view)).await
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn prompt(body: Value) -> Result<Prompt, Refusal> {
        serde_json::from_value::<AICompleteRequest>(body).unwrap().prompt()
    }

    #[test]
    fn what_was_said_comes_before_the_prompt() {
        let body = json!({"prompt": "And then?", "system": "Be brief", "messages": [
            {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Emma"}]});
        let prompt = prompt(body).unwrap();
        let said: Vec<_> = prompt.before.iter().map(|it| it.content.as_str()).collect();
        assert_eq!(said, ["Be brief", "Who?", "Emma"]);
        assert_eq!((prompt.tokens_max, prompt.temperature), (Some(2_048), Some(0.7)));
        assert_eq!(prompt.model, None);
    }

    #[test]
    fn what_is_no_prompt_is_refused() {
        for more in [
            json!({"prompt": ""}),
            json!({"prompt": "x".repeat(PROMPT_BYTES_MAX + 1)}),
            json!({"temperature": 2.1}),
            json!({"temperature": -0.1}),
            json!({"max_tokens": 0}),
            json!({"max_tokens": TOKENS_MAX + 1}),
            json!({"model": "m".repeat(MODEL_BYTES_MAX + 1)}),
            json!({"messages": [{"role": "tool", "content": ""}]}),
        ] {
            let mut body = json!({"prompt": "x"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(prompt(body).unwrap_err().code, "validation_error");
        }
    }
}
