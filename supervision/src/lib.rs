//! The actor kernel: entities, turns, directory, supervisors, reminders, monitor.
