"""Who gets which mail: lists of their own or the common one, and only what is an address."""

import json
import os

import pytest
from moto import mock_aws

from fraud.errors import ParameterError
from fraud.pipeline import mail_addresses, where
from fraud.pipeline.where import Where


def here(**lists):
    return Where("bucket", "eu-west-1", report_from="a@example.com", **lists)


GOOD = ["a@example.com", "first.last+fraud@mail.example.co.uk", "x_y@a-b.example", "o'neil@example.com", "1@2.example"]
BAD = [
    "", "a", "a@", "@example.com", "a@b", "a b@example.com", "a@example..com", ".a@example.com", "a.@example.com",
    "a@-example.com", "a@example.com ", "a@example.com\n", "a@example.com\r\nBcc: b@example.com", "A <a@example.com>",
    "a@example.com,b@example.com", "a;b@example.com", '"a"@example.com', "ü@example.com", "a@exämple.com",
    "x" * 65 + "@example.com", "a@" + "x" * 250 + ".com", "a@[127.0.0.1]", "a@@example.com",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_addresses(text):
    assert mail_addresses.is_address(text)


@pytest.mark.parametrize("text", BAD)
def test_no_addresses(text):
    assert not mail_addresses.is_address(text)


def test_each_event_has_its_list_or_the_common_one():
    all_of_them = here(report_to=["all@example.com"], report_to_on_drift=["drift@example.com", "d2@example.com"])
    assert mail_addresses.recipients(all_of_them, "drift") == (["drift@example.com", "d2@example.com"], [])
    for event in ("success", "failure"):
        assert mail_addresses.recipients(all_of_them, event) == (["all@example.com"], [])
    assert mail_addresses.recipients(here(), "drift") == ([], [])
    assert mail_addresses.recipients(here(report_to_on_failure=["f@example.com"]), "success") == ([], [])


def test_a_bad_entry_is_named_with_its_setting_and_the_others_get_their_mail():
    lists = here(report_to=["x@example.com"], report_to_on_failure=["ok@example.com", "on-call", "ok@example.com"])
    people, complaints = mail_addresses.recipients(lists, "failure")
    assert people == ["ok@example.com"]
    assert complaints == [
        "'on-call' in ReportToOnFailure is no e-mail address and gets no mail: correct it with `fraud infra deploy "
        "--set ReportToOnFailure=…`."
    ]
    assert "in ReportTo is no" in mail_addresses.recipients(here(report_to=["x"]), "drift")[1][0]


def test_one_mail_goes_to_fifty_at_most():
    many = [f"p{k}@example.com" for k in range(60)]
    people, complaints = mail_addresses.recipients(here(report_to=many), "success")
    assert people == many[:50] and "holds 60 addresses" in complaints[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ReportTo": "a@example.com,b"}, "ReportTo holds 'b', which is no e-mail address"),
        ({"ReportToOnDrift": "a@example.com\nBcc: x@example.com"}, "ReportToOnDrift holds 'a@example.com"),
        ({"ReportToOnSuccess": " a@example.com"}, "ReportToOnSuccess holds ' a@example.com'"),
        ({"ReportToOnFailure": "x@y"}, "ReportToOnFailure holds 'x@y'"),
        ({"ReportFrom": "nobody"}, "ReportFrom is 'nobody'"),
        ({"ReportTo": ",".join(f"p{k}@example.com" for k in range(51))}, "ReportTo holds 51 addresses"),
    ],
)
def test_settings_are_refused_before_anything_is_deployed(settings, said):
    with pytest.raises(ParameterError) as caught:
        mail_addresses.check_settings(settings)
    assert said in str(caught.value)


def test_good_settings_pass():
    mail_addresses.check_settings(
        {"ReportFrom": "Fraud Loop <a@example.com>", "ReportTo": "a@example.com,b@example.com", "ReportToOnDrift": "",
         "PipelineName": "no address"}
    )  # fmt: skip


def test_lists_come_from_the_deployment_and_the_environment_overrides_them(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AWS_", "FRAUD_")):
            monkeypatch.delenv(name)
    for name, value in (("AWS_REGION", "eu-west-1"), ("AWS_ACCESS_KEY_ID", "t"), ("AWS_SECRET_ACCESS_KEY", "t")):
        monkeypatch.setenv(name, value)
    with mock_aws():
        where.client.cache_clear()
        where.where.cache_clear()
        stored = {"bucket": "b", "report_to": ["a@example.com"], "report_to_on_drift": []}
        stored |= {"report_to_on_failure": "x@y.zz"}
        where.client("ssm").put_parameter(Name=where.PARAMETER, Value=json.dumps(stored), Type="String")
        monkeypatch.setenv("FRAUD_REPORT_TO_ON_SUCCESS", "s@example.com, t@example.com,")
        found = where.where()
    where.client.cache_clear()
    where.where.cache_clear()
    assert (found.report_to, found.report_to_on_drift) == (["a@example.com"], [])
    assert found.report_to_on_success == ["s@example.com", "t@example.com"]
    assert found.report_to_on_failure == ["x@y.zz"]
