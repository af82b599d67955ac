"""The one clean environment of the local AWS: what its processes see of the shell that they were started from.

A shell is full of words that lead elsewhere: to another AWS (``AWS_PROFILE``, ``AWS_ENDPOINT_URL_S3``, ``~/.aws``), a
proxy, another deployment (``FRAUD_BUCKET``), other code (``PYTHONPATH``), another repository (``GIT_DIR``). Processes
get what `kept` allows and nothing else; a shell that is there already is told what to set and what to unset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

# What a process needs to find programs, files, words, time, certificates and packages on this machine.
_KEPT = frozenset(
    "PATH HOME USER LOGNAME SHELL TERM LANG LANGUAGE TZ TMPDIR XDG_CACHE_HOME XDG_CONFIG_HOME XDG_RUNTIME_DIR "
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY FTP_PROXY NO_PROXY http_proxy https_proxy all_proxy ftp_proxy no_proxy "
    "SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE "
    "PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST PIP_CERT PIP_CLIENT_CERT PIP_PROXY PIP_NO_INDEX PIP_FIND_LINKS "
    "PIP_CACHE_DIR PIP_CONFIG_FILE PIP_RETRIES PIP_DEFAULT_TIMEOUT UV_INDEX_URL UV_DEFAULT_INDEX UV_CACHE_DIR "
    "PYTHONUTF8 PYTHONCOERCECLOCALE".split()
)
_KEPT_BY_PATTERN = re.compile(r"LC_\w+|LD_\w+|DYLD_\w+|\w+_NUM_THREADS")
_OUR_OWN = re.compile(r"FRAUD_LOCAL_(?!HELD_BY$)\w+")  # who holds it when it is started need not hold it later

# What leads elsewhere, and what begins alike and does not.
_ELSEWHERE = re.compile(
    r"(AWS|SM|SAGEMAKER|FRAUD|BOTO|TRAINING_JOB|CODEBUILD)_\w+|PYTHON\w*|GIT_CONFIG\w*|"
    r"GIT_(DIR|WORK_TREE|COMMON_DIR|INDEX_FILE|OBJECT_DIRECTORY|ALTERNATE_OBJECT_DIRECTORIES|NAMESPACE|PREFIX)"
)
_HARMLESS = re.compile(
    r"FRAUD_LOCAL_\w+|FRAUD_SOURCE|FRAUD_REPORTS|FRAUD_RUNS|AWS_PAGER|AWS_DEFAULT_OUTPUT|AWS_CLI_AUTO_PROMPT|"
    r"PYTHON(UTF8|COERCECLOCALE|IOENCODING|UNBUFFERED|DONTWRITEBYTECODE|PYCACHEPREFIX|HASHSEED|FAULTHANDLER|_COLORS)"
)
_FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "PIP_CLIENT_CERT")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def kept(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what anything that runs here may see of `environ`: no address, credential, setting or code of AWS's."""
    missing = set(_missing(environ))
    found = {
        name: value
        for name, value in environ.items()
        if (name in _KEPT or _KEPT_BY_PATTERN.fullmatch(name)) and name not in missing
    }
    if found.get("LC_ALL") in ("C", "POSIX"):
        found["LC_ALL"] = "C.UTF-8"  # Python reads its .pth files as ASCII else: it does not start below a folder `ä`
    return found | _no_proxy(environ)


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the local AWS's own processes: `kept`, and what steers the local AWS itself.

    That is ``FRAUD_LOCAL_*``, and ``FRAUD_SOURCE``, the repository that builds use.
    """
    own = {name: value for name, value in environ.items() if _OUR_OWN.fullmatch(name)}
    if source := environ.get("FRAUD_SOURCE"):
        own["FRAUD_SOURCE"] = str(Path(source).resolve())
    return kept(environ) | own


def changes(environ: Mapping[str, str], aws: Mapping[str, str]) -> dict[str, str | None]:
    """Return what whoever has `environ` must set (text) and unset (None), so that AWS is the local AWS alone."""
    leading = {name: None for name in environ if _leads_elsewhere(name)} | dict.fromkeys(_missing(environ))
    return {**leading, **aws, **_no_proxy(environ)}


def set_aside(environ: Mapping[str, str], aws: Mapping[str, str]) -> list[str]:
    """Return the names of the variables of `environ` that lead elsewhere and do not count here."""
    found = changes(environ, aws)
    return sorted(name for name in found.keys() & environ.keys() - _no_proxy({}) if environ[name] != found[name])


def _leads_elsewhere(name: str) -> bool:
    return _ELSEWHERE.fullmatch(name) is not None and _HARMLESS.fullmatch(name) is None


def _missing(environ: Mapping[str, str]) -> list[str]:
    """Certificates that are not there: programs that look for them fail, also where they need none."""
    return [name for name in _FILES if (path := environ.get(name)) and not Path(path).exists()]


def _no_proxy(environ: Mapping[str, str]) -> dict[str, str]:
    """``NO_PROXY`` in both spellings, with loopback before what both say."""
    given = [item.strip() for name in ("NO_PROXY", "no_proxy") for item in environ.get(name, "").split(",")]
    text = ",".join(dict.fromkeys([*_LOOPBACK, *filter(None, given)]))
    return {"NO_PROXY": text, "no_proxy": text}
