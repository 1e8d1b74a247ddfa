"""Every message on the wire, as a pydantic model: client events, requests between services, stored records."""
