"""The Flask application: routes, access, and the server that runs them."""
