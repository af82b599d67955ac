"""Who gets which mail, and whether that is an address at all.

``ReportTo`` of ``infra/app.yml`` names everybody; ``ReportToOnDrift``, ``ReportToOnSuccess`` and ``ReportToOnFailure``
replace it for one kind of mail.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parseaddr

from fraud.errors import ParameterError
from fraud.pipeline.where import Where

DRIFT, SUCCESS, FAILURE = "drift", "success", "failure"
SETTINGS = {"": "ReportTo", DRIFT: "ReportToOnDrift", SUCCESS: "ReportToOnSuccess", FAILURE: "ReportToOnFailure"}
MOST = 50  # recipients of one message: SES refuses more
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(rf"(?=.{{3,254}}\Z)(?=.{{1,64}}@){_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+", re.ASCII)


def is_address(text: str) -> bool:
    r"""Whether a text is one plain e-mail address, as SES takes it: no name, no quotes, ASCII.

    Examples
    --------
    >>> is_address("fraud-team@example.com"), is_address("a@b"), is_address("a@example.com\nBcc: x@example.com")
    (True, False, False)
    """
    return _ADDRESS.fullmatch(text) is not None


def check_sender(text: str) -> str:
    """Refuse a sender that is no address, nor a name with an address in angle brackets.

    Raises
    ------
    ParameterError
    """
    if not text.isprintable() or not is_address(parseaddr(text)[1]):
        raise ParameterError(f"ReportFrom is {text!r}, which is no e-mail address: give one like drift@example.com.")
    return text


def check_settings(settings: Mapping[str, str]) -> None:
    """Refuse recipients and senders of ``infra/app.yml`` that are no addresses, before anything is deployed.

    Raises
    ------
    ParameterError
        Names setting and address.
    """
    if settings.get("ReportFrom"):
        check_sender(settings["ReportFrom"])
    for name in SETTINGS.values():
        given = [item for item in settings.get(name, "").split(",") if item]
        wrong = [item for item in given if not is_address(item)]
        if wrong:
            raise ParameterError(f"{name} holds {wrong[0]!r}, which is no e-mail address: correct it or leave it out.")
        if len(given) > MOST:
            raise ParameterError(f"{name} holds {len(given)} addresses, but one mail may have {MOST}: use a list.")


def recipients(here: Where, event: str) -> tuple[list[str], list[str]]:
    """Who is told of an event.

    Parameters
    ----------
    here : Where
        The deployment.
    event : {'drift', 'success', 'failure'}

    Returns
    -------
    addresses : list of str
        Each once; the list of the event, or of all mail where that is empty.
    complaints : list of str
        A sentence for each entry that is no address. The others get their mail all the same.
    """
    own: list[str] = getattr(here, f"report_to_on_{event}")
    setting = SETTINGS[event if own else ""]
    good, wrong = _sorted_out(own or here.report_to)
    said = [
        f"{item!r} in {setting} is no e-mail address and gets no mail: correct it with `fraud infra deploy "
        f"--set {setting}=…`."
        for item in wrong
    ]
    if len(good) > MOST:
        said.append(f"{setting} holds {len(good)} addresses, but one mail may have {MOST}: the others get none.")
    return good[:MOST], said


def _sorted_out(given: Iterable[str]) -> tuple[list[str], list[str]]:
    once = list(dict.fromkeys(given))
    return [item for item in once if is_address(item)], [item for item in once if not is_address(item)]
