"""What operators see: log lines, metrics, the service manager's notifications, and the test suite's failpoints."""
