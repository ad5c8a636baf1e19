//! How large a report may become. An object in etcd has at most 1.5 MB, and a thousand nodes write one each.

/// Types of conditions.
pub const MAX_CONDITIONS: u64 = 8;
/// Policies that are listed.
pub const MAX_POLICIES: u64 = 5000;
/// Refused objects of other kinds.
pub const MAX_OTHER_OBJECTS: u64 = 200;
/// Host endpoints that are listed.
pub const MAX_HOST_ENDPOINTS: u64 = 300;
/// Devices of one host endpoint.
pub const MAX_ENDPOINT_DEVICES: u64 = 300;
/// Devices that are listed.
pub const MAX_DEVICES: u64 = 300;
/// Programs at one hook.
pub const MAX_CHAIN: u64 = 32;
/// Places of trouble.
pub const MAX_TROUBLES: u64 = 64;
/// Places from which something was taken.
pub const MAX_TAKEN_AWAY: u64 = 64;
/// Errors of one object; the last says how many more there are.
pub const MAX_ERRORS: u64 = 10;
/// Of one error, one trouble, one reason.
pub const MAX_TEXT_CHARS: usize = 512;
/// Of a condition's message.
pub const MAX_MESSAGE_CHARS: usize = 2048;
/// Of the whole report as JSON. etcd takes 1.5 MB; the rest is for the metadata and for who stores it in a less compact
/// way.
pub const MAX_REPORT_BYTES: usize = 1_000_000;
/// Of the note of an event (the API server's limit is 1024).
pub const MAX_NOTE_BYTES: usize = 1024;
