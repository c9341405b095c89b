"""The release in the object store: the champion, its deployment, and the journal and log of every move."""
