//! The HTTP front end, the console and the command line of Bailiwick.
//!
//! [`start`] opens a data folder and makes the [`App`]; [`server`] runs the connections;
//! [`front`] is what every request passes; [`routes`] has one file a family of routes.

pub mod admission;
mod agent_callers;
pub mod api_keys;
pub mod app;
pub mod archive;
pub mod assets;
pub mod authenticate;
pub mod backup;
pub mod config;
pub mod connection;
pub mod console;
pub mod demo;
pub mod egress;
pub mod exporting;
pub mod extract;
pub mod front;
pub mod keys;
pub mod load;
pub mod mail;
pub mod metrics;
pub mod named_user;
pub mod offline;
pub mod once;
pub mod openapi;
pub mod pace;
pub mod paging;
pub mod payments;
pub mod places;
pub mod portability;
pub mod problem;
mod query_token;
pub mod reindex;
mod remote;
pub mod restore;
pub mod routes;
pub mod server;
pub mod start;
pub mod streaming;
pub mod strict;
pub mod tls;
pub mod turnstile;
pub mod verify;
pub mod visitor;
pub mod webhook_limits;
pub mod wording;

pub use app::App;
