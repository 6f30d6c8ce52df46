"""The release tool: workspace -> graph -> plan -> build -> check -> publish -> verify."""
