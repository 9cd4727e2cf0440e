"""Own models: tasks, students, certificates, audits. No part of it is in a gateway worker."""
