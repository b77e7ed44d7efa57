"""What was known at a moment: history, live statistics, examples, and the audit that checks it."""
