"""The gateway: Socket.IO on one side, NATS on the other. It decides nothing about a call."""
