"""Deploy a bundle, test the deployment, and make the bundle the champion."""
