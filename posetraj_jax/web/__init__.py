"""The web page: pictures and tracks → videos, for anybody with a browser.

Only `page` and `handlers` know of Gradio; the rest can be used and tested without it.
"""

import os

# Gradio reads these when it is imported, and looks up hosts on the internet without them.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
