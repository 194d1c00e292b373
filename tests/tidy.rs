//! Rules of the workspace.
