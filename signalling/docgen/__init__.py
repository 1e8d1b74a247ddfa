"""Generate documents: settings, subjects, metrics, AsyncAPI, dashboard, TypeScript types."""
