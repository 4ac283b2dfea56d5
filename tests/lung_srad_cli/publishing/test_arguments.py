"""Ids of repositories are checked before anything is read or sent."""

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id

BAD = [
    "name",
    "user/",
    "/name",
    "a/b/c",
    "datasets/user/name",
    "user/na me",
    "user/n--m",
    "user/n..m",
    "user/name.git",
]
BAD += [".user/name", "user/name-", "user/.", "https://huggingface.co/user/name", "user/" + 96 * "n", "user/n\nm", ""]


@pytest.mark.parametrize("name", BAD)
def test_an_id_that_is_none_ends_with_one_line(run, name):
    outcome = run("publish", "dataset", "icbhi", name, "--dry-run")
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    assert "is not the id of a repository; write USER/NAME" in outcome.errors[0]


@pytest.mark.parametrize("name", ["user/name", "u-1/Lung.SRAD_tiny-4", "a/b", "user/1"])
def test_what_the_hub_takes_is_taken(run, name):
    validate_repo_id(name)
    assert run("publish", "dataset", "icbhi", name, "--dry-run").exit_code == 0


@pytest.mark.parametrize("name", ["x: [\n<script>", "Apache 2.0", "MIT", "", "a/b"])
def test_a_licence_that_could_be_no_identifier_ends_with_one_line(run, name):
    outcome = run("publish", "dataset", "icbhi", "user/name", "--dry-run", "--license", name)
    assert outcome.exit_code == 2
    assert len(outcome.errors) == 1
    assert "is not the identifier of a licence; write it as on the Hub" in outcome.errors[0]


def test_nothing_that_the_hub_refuses_is_taken(run):
    refused = [f"user/n{character}m" for character in "!#$%&'()*+,/:;<=>?@[]^`{|}~ \t\"\\"]
    for name in refused:
        with pytest.raises(HFValidationError):
            validate_repo_id(name)
        assert run("publish", "dataset", "icbhi", name, "--dry-run").exit_code == 2
