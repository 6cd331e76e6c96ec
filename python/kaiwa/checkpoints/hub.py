"""Files of Hugging Face repositories, with errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

from kaiwa.errors import DownloadError

#: What a file system says that takes no writes.
_UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)


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
        #: Set once the cache could not be written: only what is in it counts from then on.
        self._read_only: OSError | None = None

    def file(self, name: str) -> Path | None:
        """The local path of a file, or ``None`` if the repository has no such file."""
        from huggingface_hub import errors

        with self._explained(name):
            try:
                found = self._fetch(name)
            except errors.LocalEntryNotFoundError as error:
                self._note(name, error)
                return None
            except errors.EntryNotFoundError:
                return None
            return found
        return None

    def _fetch(self, name: str) -> Path:
        """A file, downloaded if need be and if the cache can be written; errors are the library's.

        A branch may have moved since the cache was filled. Where nothing can be written, what is
        in the cache goes on counting: all of it is of one revision.
        """
        from huggingface_hub import hf_hub_download

        def ask(*, local: bool) -> Path:
            found = hf_hub_download(
                self.name,
                name,
                revision=self._revision,
                cache_dir=self._cache,
                local_files_only=local,
            )
            return Path(found)

        # The library retries for half a minute: once is enough.
        if self.unreachable is not None or self._read_only is not None:
            return ask(local=True)
        try:
            return ask(local=False)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            self._read_only = error
        found = ask(local=True)
        warnings.warn(
            f"the cache of models cannot be written ({self._read_only.strerror}), so that "
            f"revision {found.parent.name[:12]} of {self.name} is used, which is in it; to update "
            "it, make it writable, or name another with HF_HOME",
            stacklevel=2,
        )
        return found

    def matching(self, pattern: str) -> list[str]:
        """Names of the files of a pattern at the repository's top level."""
        from huggingface_hub import errors, list_repo_files, snapshot_download

        with self._explained("the list of files"):
            if self.unreachable is None and self._read_only is None:
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
        if self._read_only is not None:
            self.unreachable = DownloadError(
                f"{what} of {self.name} is not in the cache of models, which cannot be written "
                f"({self._read_only.strerror}); make it writable, or name another with HF_HOME"
            )
            return
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
