//! Files of the sandbox.
