"""The fixed texts of the page, and its messages, as HTML in which everything from outside is escaped."""

import html

HEADER = """
<header class="lung-header">
  <h1>Lung sounds: normal, crackle, wheeze or both</h1>
  <p>Record or choose a recording of up to 10 minutes; Lung-SRAD classifies it window by window. A recording is removed
  from the server as soon as it has been answered.</p>
  <p class="lung-research">Research software, not a medical device: its answers must not be used for diagnosis or
  treatment.</p>
</header>"""
HINT = """
<p class="lung-hint">wav, flac, ogg, mp3 and more; at most {megabytes} MB and {minutes} minutes.</p>
<p class="lung-alert" role="alert" data-largest="{bytes}"
  data-message="The file is larger than {megabytes} MB; cut it, or save it as flac."></p>
<p class="lung-hint">Or try a simulated example, which a program computed:</p>"""
EMBEDDED_NOTE = "The embedded model is small; its card says how well it hears which sounds, and on whose recordings."
EMPTY_ANSWER = """
<section class="lung-empty">
  <h2>Answer</h2>
  <p>Which sounds were found and when, how good the recording is, and a table of the windows to download.</p>
  <ol>
    <li>Record, choose a file, or take a simulated example.</li>
    <li>Press <strong>Classify</strong>.</li>
    <li>Have a window explained: which times and frequencies made its class.</li>
  </ol>
</section>"""


def error_html(message: str) -> str:
    """
    A message, `what: what is wrong; remedy`, as HTML that screen readers announce. All signs in it are escaped.

    Example:

    ```python
    >>> "<b>" in error_html("<b>.wav: is silent; record again")
    False

    ```"""
    what, _, remedy = message.rpartition("; ")
    problem, remedy = (what, remedy) if what else (remedy, "")
    shown = html.escape(" ".join(problem.split()))
    advice = f"<p>What helps: {html.escape(' '.join(remedy.split()))}.</p>" if remedy else ""
    return f'<section class="lung-error" role="alert"><h2>No answer</h2><p>{shown}.</p>{advice}</section>'
