"""Name each part of aiohttp, python-engineio and python-socketio in use that is not public, and why it is needed."""
