"""Bytes ⇄ values of the wires that clients and providers speak. No sockets, no clock."""
