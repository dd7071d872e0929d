import { memoryKubelet } from "./memory/under-test.ts";
import { kubeletSuite } from "./suite.ts";

await kubeletSuite(memoryKubelet);
