import { processKubelet } from "./process/under-test.ts";
import { kubeletSuite } from "./suite.ts";

await kubeletSuite(processKubelet);
