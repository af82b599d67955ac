"""The contract of a conditional write, whoever makes it."""

import pytest
from botocore.exceptions import ClientError

from fraud import conditional


class Key:
    """One key of S3 that answers as it is told to, and keeps what was written all the same where it says ``after``."""

    def __init__(self, *answers, held=None):
        self.answers, self.held, self.puts = list(answers), held, 0

    def put(self, body):
        self.puts += 1
        answer = self.answers.pop(0) if self.answers else "200"
        if answer in ("200", "412 after"):
            self.held = body
        if answer != "200":
            raise ClientError({"Error": {"Code": answer.split()[0]}}, "PutObject")
        return "tag"

    def write(self, body, **given):
        return conditional.write(
            lambda: self.put(body), lambda: "tag" if self.held == body else None, pause=0.0, **given
        )


@pytest.mark.parametrize("code", sorted(conditional.CONFLICT))
@pytest.mark.parametrize("times", [1, 3])
def test_two_at_the_same_instant_decide_nothing_and_it_is_written_again(code, times):
    key = Key(*[code] * times)
    assert key.write("mine") == "tag" and key.held == "mine" and key.puts == times + 1


def test_a_write_that_met_itself_came_through():
    key = Key("412 after")
    assert key.write("mine") == "tag" and key.puts == 1


@pytest.mark.parametrize("code", sorted(conditional.CHANGED))
@pytest.mark.parametrize("before", [[], ["409"]])
def test_another_that_was_first_is_not_oneself(code, before):
    key = Key(*before, code, held="theirs")
    assert key.write("mine") is None and key.held == "theirs"


@pytest.mark.parametrize("code", sorted(conditional.ABSENT))
def test_what_is_gone_has_changed_only_for_who_replaces_it(code):
    assert Key(code).write("mine", replaces=True) is None
    with pytest.raises(ClientError, match=code):
        Key(code).write("mine")


@pytest.mark.parametrize("code", ["409", "AccessDenied", "503"])
def test_a_write_that_never_got_through_is_no_success(code):
    key = Key(*[code] * 9)
    with pytest.raises(ClientError, match=code):
        key.write("mine", attempts=3)
    assert key.held is None and key.puts == (3 if code == "409" else 1)


def test_an_error_that_is_not_of_s3_is_passed_on():
    def broken():
        raise ConnectionError

    with pytest.raises(ConnectionError):
        conditional.write(broken, lambda: None)
