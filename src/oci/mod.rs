//! What runtimes hand over: state JSON and config.json.
