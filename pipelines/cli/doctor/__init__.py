"""What ``mistere doctor`` looks at: one module a subject, each check a small function that returns a finding."""
