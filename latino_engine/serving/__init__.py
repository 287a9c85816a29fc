"""A service around engines: requests over HTTP, drawn together, and a page for the browser."""
