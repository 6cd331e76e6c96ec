"""Files of Hugging Face repositories, with errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

from kaiwa.errors import DownloadError


class Repository:
    """One revision of a repository, from the cache or the network.

    Without network a file that is not in the cache may or may not exist: the methods then give
    ``None`` as for a file that does not exist, and :attr:`unreachable` says why. So what was
    downloaded once loads again offline.

    Raises (all methods):
        DownloadError: The repository does not exist, is gated, or the transfer failed.
    """

    def __init__(
        self, name: str, revision: str | None, cache_dir: str | PathLike[str] | None
    ) -> None:
        self.name = name
        self._revision = revision
        self._cache = None if cache_dir is None else Path(cache_dir)
        #: Set once a question could not be answered without network.
        self.unreachable: DownloadError | None = None

    def file(self, name: str) -> Path | None:
        """The local path of a file, or ``None`` if the repository has no such file."""
        from huggingface_hub import errors, hf_hub_download

        with self._explained(name):
            try:
                found = hf_hub_download(
                    self.name,
                    name,
                    revision=self._revision,
                    cache_dir=self._cache,
                    # The library retries for half a minute: once is enough.
                    local_files_only=self.unreachable is not None,
                )
            except errors.LocalEntryNotFoundError as error:
                self._note(name, error)
                return None
            except errors.EntryNotFoundError:
                return None
            return Path(found)
        return None

    def matching(self, pattern: str) -> list[str]:
        """Names of the files of a pattern at the repository's top level."""
        from huggingface_hub import errors, list_repo_files, snapshot_download

        with self._explained("the list of files"):
            if self.unreachable is None:
                names = list_repo_files(self.name, revision=self._revision)
            else:
                try:
                    folder = snapshot_download(
                        self.name,
                        revision=self._revision,
                        cache_dir=self._cache,
                        local_files_only=True,
                    )
                except errors.LocalEntryNotFoundError:
                    return []
                names = [path.name for path in Path(folder).glob(pattern)]
            return sorted(n for n in names if fnmatch(n, pattern) and "/" not in n)
        return []

    def only(self, pattern: str) -> Path | None:
        """The repository's only file of a pattern at its top level, or ``None``."""
        found = self.matching(pattern)
        return self.file(found[0]) if len(found) == 1 else None

    def _note(self, what: str, error: Exception) -> None:
        self.unreachable = DownloadError(
            f"cannot reach the Hub for {what} of {self.name}, and it is not in the cache; check "
            "the network (and that HF_HUB_OFFLINE is not set), or pass the path of a local copy"
        )
        self.unreachable.__cause__ = error

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns the library's errors into a :class:`DownloadError` that says what to do."""
        from huggingface_hub import errors

        repo = self.name
        try:
            yield
        except DownloadError:
            raise
        except errors.GatedRepoError as error:
            raise DownloadError(
                f"{repo} is gated; accept its licence on its page, then set HF_TOKEN or run "
                "`hf auth login`"
            ) from error
        except errors.RevisionNotFoundError as error:
            raise DownloadError(
                f"{repo} has no revision {self._revision!r}; pass a branch, tag or commit that "
                "exists"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise DownloadError(
                f"{repo} is neither a local path nor a repository that can be seen; check the "
                "spelling, or set HF_TOKEN if it is private"
            ) from error
        except errors.HFValidationError as error:
            raise DownloadError(
                f"{repo} is not a repository id ({error}); pass owner/name, or a path that exists"
            ) from error
        except Exception as error:  # network libraries raise many kinds; all mean the same here
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise DownloadError(
                f"downloading {what} of {repo} failed: {reason}; check the network and the free "
                "disk space, or pass the path of a local copy"
            ) from error
