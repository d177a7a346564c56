"""The same toy pipeline on several engines: throughput, CPU, memory, and what a killed worker costs."""
