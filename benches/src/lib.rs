//! Micro benches and peers, measured side by side.
