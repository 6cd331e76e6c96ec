"""From what a user names (a repository, a folder or a file) to the files of a checkpoint."""
