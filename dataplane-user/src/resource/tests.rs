//! Rows V01–V51 of the behaviour table.
