//! The console's page: landmarks, the login form and empty views, which the script fills.

use maud::{DOCTYPE, Markup, html};

use activity::operator_act::REASON_CHARS_MAX;

use super::FILES;

/// The views, by the name in the address and the title in the navigation.
const VIEWS: [(&str, &str); 10] = [
    ("overview", "Overview"),
    ("tree", "Supervision"),
    ("kinds", "Kinds"),
    ("users", "Users"),
    ("flights", "In flight"),
    ("confirmations", "Confirmations"),
    ("apps", "Apps"),
    ("payouts", "Payouts"),
    ("developers", "Developers"),
    ("journal", "Journal"),
];

/// The classes of reasons to freeze something, the most common first.
const CLASSES: [&str; 6] = ["security", "abuse", "payment", "legal", "maintenance", "other"];

/// The whole page.
pub fn page() -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { "Bailiwick console" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/assets/palette.css";
                @for file in FILES {
                    (link(file.name))
                }
            }
            body {
                a.skip href="#content" { "Skip to the content" }
                (top())
                main #content tabindex="-1" {
                    noscript { p.notice { "The console needs JavaScript." } }
                    div #problem role="alert" {}
                    (login())
                    (workspace())
                }
                (act())
            }
        }
    }
}

/// Styles load, the script runs, and the modules it imports are asked for at once.
fn link(name: &str) -> Markup {
    let path = format!("/console/{name}");
    html! {
        @if name.ends_with(".css") {
            link rel="stylesheet" href=(path);
        } @else if name == "console.js" {
            script type="module" src=(path) {}
        } @else {
            link rel="modulepreload" href=(path);
        }
    }
}

fn top() -> Markup {
    html! {
        header.top {
            p.brand { span.mark aria-hidden="true" {} "Bailiwick" }
            nav #views aria-label="Views" hidden {
                ul {
                    @for (name, title) in VIEWS {
                        li { a href={ "#/" (name) } data-view=(name) { (title) } }
                    }
                }
            }
            div.session {
                p #connection.pill role="status" aria-live="polite" {}
                button #logout type="button" hidden { "Log out" }
            }
        }
    }
}

fn login() -> Markup {
    html! {
        form #login.card aria-labelledby="login-title" hidden {
            h1 #login-title { "Operator login" }
            p.quiet { "For users of the system tenant with the scope " code { "operator" } "." }
            label for="email" { "E-mail address" }
            input #email name="email" type="email" autocomplete="username" required;
            label for="password" { "Password" }
            input #password name="password" type="password" autocomplete="current-password"
                required;
            div #second-factor hidden {
                label for="otp" { "Code of the authenticator app, or a recovery code" }
                input #otp name="otp" type="text" autocomplete="one-time-code" spellcheck="false";
            }
            p #login-error.error role="alert" {}
            button.primary type="submit" { "Log in" }
        }
    }
}

fn workspace() -> Markup {
    html! {
        div #workspace hidden {
            h1 #title tabindex="-1" {}
            div #search .finders hidden {
                search {
                    label for="filter" { "Filter what is live by kind, id or tenant" }
                    input #filter type="search" autocomplete="off" spellcheck="false";
                }
                form #find role="search" {
                    label for="find-kind" { "Open any entity, live or not" }
                    div.row {
                        select #find-kind aria-label="Kind" {}
                        input #find-id type="text" autocomplete="off" spellcheck="false" required
                            aria-label="Id: imp_t_…, imp_u_…, a UUID or its own";
                        button type="submit" { "Open" }
                    }
                }
            }
            div #view aria-busy="true" { p.loading { "Loading…" } }
        }
    }
}

/// Where an operator says why.
fn act() -> Markup {
    html! {
        dialog #act aria-labelledby="act-title" {
            form #act-form method="dialog" {
                h2 #act-title {}
                p #act-about.quiet {}
                div #act-why {
                    label #act-label for="act-reason" { "Reason" }
                    textarea #act-reason rows="3" maxlength=(REASON_CHARS_MAX) required
                        aria-describedby="act-note" {}
                }
                div #act-classes hidden {
                    label for="act-class" { "What whoever is refused hears" }
                    select #act-class {
                        @for class in CLASSES { option value=(class) { (class) } }
                    }
                }
                p #act-note.quiet {}
                div #act-confirmation hidden {
                    label for="act-confirm" { "Type its id to confirm: " code #act-id {} }
                    input #act-confirm type="text" autocomplete="off" spellcheck="false";
                }
                p #act-error.error role="alert" {}
                div.buttons {
                    button #act-cancel type="button" { "Cancel" }
                    button #act-go.primary type="submit" {}
                }
            }
        }
    }
}
