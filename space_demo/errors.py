"""Which errors are about what somebody put in, and so are told to them."""

OWN_PACKAGES = ("modeling_lung_srad", "dataset_scripts", "space_demo")


def is_about_input(error: Exception) -> bool:
    """Whether an error is one of this project about wrong input, and no mistake in the code."""
    return isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in OWN_PACKAGES
