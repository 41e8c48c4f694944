//! Checks against the real thing: processes, servers, interfaces of a host of the test's own.
