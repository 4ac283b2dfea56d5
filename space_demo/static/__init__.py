"""The static page: it classifies in the browser, without a server of ours.

`page/` has what the browser runs; `build` adds the model, its settings and the runtime.
"""
